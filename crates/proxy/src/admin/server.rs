//! The process itself: state, listeners, memory, logging, drain, end.

use std::sync::atomic::Ordering;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Asked, Context};
use crate::drain::Phase;

/// Envoy's names for where a server stands.
fn state(context: &Context) -> &'static str {
    let shared = &context.shared;
    if shared.is_ready() {
        "LIVE"
    } else if shared.drain.phase().is_draining() || !shared.serving.load(Ordering::Acquire) {
        "DRAINING"
    } else {
        "INITIALIZING"
    }
}

/// `/ready` and `/healthz/ready`
pub(super) fn ready(context: &Context, _: &Asked) -> Answer {
    let answer = Answer::text(format!("{}\n", state(context)));
    match context.shared.is_ready() {
        true => answer,
        false => answer.with(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// `/server_info`
pub(super) fn info(context: &Context, _: &Asked) -> Answer {
    let shared = &context.shared;
    let uptime = format!("{}s", shared.uptime().as_secs());
    Answer::json(&json!({
        "version": format!("{}/{}", context.node.user_agent, context.node.user_agent_version),
        "state": state(context),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": {"concurrency": shared.wanted.len()},
        "node": {
            "id": context.node.id,
            "cluster": context.node.cluster,
            "metadata": context.node.metadata,
            "user_agent_name": context.node.user_agent,
        },
    }))
}

/// `/listeners`
pub(super) fn listeners(context: &Context, asked: &Asked) -> Answer {
    let tables = context.shared.live.tables();
    let mut rows: Vec<_> = tables
        .listeners
        .iter()
        .map(|(name, listener)| {
            let bound = listener.sockets.as_ref().map(|sockets| sockets.address);
            (
                name,
                bound.unwrap_or(listener.config.address),
                bound.is_some(),
            )
        })
        .collect();
    rows.sort();
    match asked.wants_json() {
        true => {
            let statuses: Vec<Value> = rows
                .iter()
                .map(|(name, address, bound)| {
                    let socket = json!({"address": address.ip(), "port_value": address.port()});
                    json!({"name": &***name, "local_address": {"socket_address": socket}, "bound": bound})
                })
                .collect();
            Answer::json(&json!({ "listener_statuses": statuses }))
        }
        false => Answer::text(
            rows.iter()
                .map(|(name, address, _)| format!("{name}::{address}\n"))
                .collect::<String>(),
        ),
    }
}

/// `/memory`: what the kernel counts, under Envoy's names where they mean the same.
pub(super) fn memory(_: &Context, _: &Asked) -> Answer {
    let status = match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => status,
        Err(error) => {
            let text = format!("/proc/self/status cannot be read: {error}\n");
            return Answer::text(text).with(StatusCode::INTERNAL_SERVER_ERROR);
        }
    };
    let bytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let kilobytes: u64 = line
            .trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        // Envoy writes 64-bit numbers as strings.
        Some((kilobytes * 1024).to_string())
    };
    Answer::json(&json!({
        "allocated": bytes("RssAnon"),
        "heap_size": bytes("VmData"),
        "total_physical_bytes": bytes("VmRSS"),
        "peak_physical_bytes": bytes("VmHWM"),
    }))
}

/// `/logging`
pub(super) fn logging(context: &Context, asked: &Asked) -> Answer {
    let Some(levels) = &context.levels else {
        return Answer::text("this process fixes what it logs when it starts: set RIPSTOP_LOG\n")
            .with(StatusCode::NOT_IMPLEMENTED);
    };
    if let Some(filter) = asked.value("filter").or(asked.value("level")) {
        // Envoy's name for what ours call warn, and its two that we do not tell apart from error and off.
        let filter = match filter {
            "warning" => "warn",
            "critical" => "error",
            other => other,
        };
        if let Err(error) = levels.set(filter) {
            return Answer::wrong(format!(
                "{error}\nuse ?level=trace|debug|info|warning|error|off or ?filter=info,ripstop_proxy=debug\n"
            ));
        }
    }
    Answer::text(format!("active filter: {}\n", levels.current()))
}

/// `/drain_listeners`: only without conditions do the listeners close; outbound ones share this process, so a drain of the
/// inbound ones alone leaves all of them open and asks callers to leave.
pub(super) fn drain_listeners(context: &Context, asked: &Asked) -> Answer {
    let phase = match asked.has("graceful") || asked.has("inboundonly") {
        true => Phase::Draining,
        false => Phase::Closing,
    };
    context.shared.drain.advance(phase);
    Answer::text("OK\n")
}

/// `/healthcheck/fail`
pub(super) fn fail(context: &Context, _: &Asked) -> Answer {
    context.shared.serving.store(false, Ordering::Release);
    Answer::text("OK\n")
}

/// `/healthcheck/ok`
pub(super) fn recover(context: &Context, _: &Asked) -> Answer {
    context.shared.serving.store(true, Ordering::Release);
    Answer::text("OK\n")
}

/// `/quitquitquit`
pub(super) fn quit(context: &Context, _: &Asked) -> Answer {
    context.quit.notify_one();
    Answer::text("OK\n")
}
