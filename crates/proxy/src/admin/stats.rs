//! Counters and gauges by name, and everything for Prometheus.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::{Answer, Asked, Context, text};

/// `/stats`
pub(super) fn page(context: &Context, asked: &Asked) -> Answer {
    let pattern = match asked.pattern("filter") {
        Ok(pattern) => pattern,
        Err(answer) => return answer,
    };
    if asked.value("format") == Some("prometheus") {
        return prometheus(context, asked);
    }
    crate::stats::refresh(&context.shared);
    let all = context.shared.registry.stats().text("");
    let used = asked.has("usedonly");
    let wanted = all.lines().filter(|line| {
        let Some((name, value)) = line.split_once(": ") else {
            return false;
        };
        pattern
            .as_ref()
            .is_none_or(|pattern| pattern.is_match(name))
            && !(used && value == "0")
    });
    match asked.wants_json() {
        false => Answer::text(wanted.flat_map(|line| [line, "\n"]).collect::<String>()),
        true => {
            let stats: Vec<Value> = wanted
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| json!({"name": name, "value": value.parse::<i64>().unwrap_or_default()}))
                .collect();
            Answer::json(&json!({ "stats": stats }))
        }
    }
}

/// `/stats/prometheus` and `/metrics`
pub(super) fn prometheus(context: &Context, _: &Asked) -> Answer {
    crate::stats::refresh(&context.shared);
    Answer {
        kind: text::CONTENT_TYPE,
        ..Answer::text(context.shared.registry.prometheus(SystemTime::now()))
    }
}
