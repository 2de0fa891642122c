//! Seconds since 1970 in → the date format of HTTP (RFC 9110 section 5.6.7) out.

use time::format_description::StaticFormatDescription;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

const HTTP: StaticFormatDescription = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

/// `Sun, 06 Nov 1994 08:49:37 GMT`; empty for a time that no calendar has.
pub fn http_date(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&HTTP).ok())
        .unwrap_or_default()
}

/// The form that `http_date` writes, and no other; `None` for what it never writes.
pub fn seconds(date: &str) -> Option<u64> {
    let at = PrimitiveDateTime::parse(date, &HTTP).ok()?;
    u64::try_from(at.assume_utc().unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::{http_date, seconds};

    #[test]
    fn what_is_written_is_read() {
        for at in [0, 784_111_777, 951_782_400, 1_798_761_599] {
            assert_eq!(seconds(&http_date(at)), Some(at));
        }
        assert_eq!(seconds("Sun, 31 Feb 2020 00:00:00 GMT"), None);
        assert_eq!(seconds("tomorrow"), None);
    }

    #[test]
    fn known_dates() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(http_date(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 GMT");
        assert_eq!(http_date(u64::MAX), "");
    }
}
