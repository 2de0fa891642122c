//! Rows of text → a table for people: columns by width, no borders, nothing that a pipe would stumble over.

use comfy_table::{ContentArrangement, Table, presets};

/// One line a row, columns two spaces apart, `-` for what is empty.
pub(crate) fn render<const N: usize>(
    heads: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heads);
    for row in rows {
        table.add_row(row.map(|cell| {
            if cell.is_empty() {
                "-".to_owned()
            } else {
                cell
            }
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

/// `1h5m`, `3m20s`, `12s`.
pub(crate) fn seconds(seconds: u64) -> String {
    match (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s}s"),
        (0, h, m, _) => format!("{h}h{m}m"),
        (d, h, _, _) => format!("{d}d{h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            ["orders".to_owned(), "80".to_owned()],
            ["a".to_owned(), String::new()],
        ];
        assert_eq!(
            render(["NAME", "PORT"], rows),
            "NAME    PORT\norders  80\na       -\n"
        );
        assert_eq!(render(["NAME"], []), "NAME\n");
    }

    #[test]
    fn ages() {
        assert_eq!(
            [5, 65, 3700, 90_000].map(seconds),
            ["5s", "1m5s", "1h1m", "1d1h"]
        );
    }
}
