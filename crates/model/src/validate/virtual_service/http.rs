//! Checks of one HTTP route.

use std::time::Duration;

use super::{common, destination, weighted};
use crate::diagnostic::{Code, Severity};
use crate::grpc;
use crate::intent::selection::StringMatch;
use crate::intent::virtual_service::{
    FaultAbort, FaultDelay, HeaderOperations, Headers, HttpFaultInjection, HttpMatch, HttpRedirect,
    HttpRetry, HttpRewrite, HttpRoute,
};
use crate::schema::{Path, nearest};
use crate::snapshot::matching::Pattern;
use crate::snapshot::retry::{CONDITIONS, RetryOn};
use crate::validate::Checker;

pub(super) fn check(on: &mut Checker<'_>, at: &Path<'_>, route: &HttpRoute) {
    let list = at.field("match");
    for (index, matched) in route.matches.iter().enumerate() {
        request(on, &list.index(index), matched);
    }
    action(on, at, route);
    let list = at.field("route");
    let weights: Vec<Option<i32>> = route.route.iter().map(|to| to.weight).collect();
    weighted(on, &list, &weights);
    for (index, to) in route.route.iter().enumerate() {
        let at = list.index(index);
        destination(on, &at.field("destination"), &to.destination);
        headers(on, &at.field("headers"), to.headers.as_ref());
    }
    headers(on, &at.field("headers"), route.headers.as_ref());
    if let Some(rewritten) = &route.rewrite {
        rewrite(on, &at.field("rewrite"), rewritten);
    }
    if let Some(retries) = &route.retries {
        retry(on, &at.field("retries"), retries, route);
    }
    if let Some(fault) = &route.fault {
        faults(on, &at.field("fault"), fault, route);
    }
    mirrors(on, at, route);
    if let Some(cors) = &route.cors_policy {
        let at = at.field("corsPolicy");
        let at = at.field("allowOrigins");
        for (index, origin) in cors.allow_origins.iter().enumerate() {
            on.string_match(&at.index(index), origin);
        }
    }
}

/// A route must do something with the request.
fn action(on: &mut Checker<'_>, at: &Path<'_>, route: &HttpRoute) {
    if route.route.is_empty() && route.redirect.is_none() && route.direct_response.is_none() {
        on.error(Code::MissingField, at, "this route leads nowhere")
            .help("add `route:`, `redirect:` or `directResponse:`");
    }
    if route.route.is_empty() {
        for (field, set) in [
            ("timeout", route.timeout.is_some()),
            ("retries", route.retries.is_some()),
            ("rewrite", route.rewrite.is_some()),
            ("mirror", route.mirror.is_some()),
            ("mirrors", !route.mirrors.is_empty()),
        ] {
            if set {
                on.warning(
                    Code::NoEffect,
                    &at.field(field),
                    "this route answers by itself: nothing is forwarded that this could apply to",
                )
                .help("remove it, or add `route:`");
            }
        }
    }
    if let Some(to) = &route.redirect {
        redirect(on, &at.field("redirect"), to, route);
    }
    if let Some(response) = &route.direct_response {
        let at = at.field("directResponse");
        if !(200..=599).contains(&response.status) {
            on.error(
                Code::InvalidValue,
                &at.field("status"),
                format!("{} is not the status of a final response", response.status),
            )
            .help("200 to 599");
        }
        let bytes = response.body.as_ref().and_then(|body| body.bytes.as_ref());
        if let Some(text) = bytes {
            use base64::Engine as _;
            if base64::engine::general_purpose::STANDARD
                .decode(text)
                .is_err()
            {
                let body = at.field("body");
                on.error(
                    Code::InvalidValue,
                    &body.field("bytes"),
                    "this is not base64",
                )
                .help("use `string:` for plain text");
            }
        }
    }
}

fn request(on: &mut Checker<'_>, at: &Path<'_>, matched: &HttpMatch) {
    let nameless = HttpMatch {
        name: None,
        ..matched.clone()
    };
    if nameless == HttpMatch::default() {
        on.error(Code::EmptyField, at, "this match is empty")
            .help("remove `match:` to match everything");
    }
    if let Some(uri) = &matched.uri {
        on.path_match(&at.field("uri"), uri);
        if matched.ignore_uri_case == Some(true) && matches!(uri, StringMatch::Regex(_)) {
            on.warning(
                Code::NoEffect,
                &at.field("ignoreUriCase"),
                "this has no effect on a regex",
            )
            .help("start the regex with (?i)");
        }
    }
    for (field, value) in [
        ("scheme", &matched.scheme),
        ("method", &matched.method),
        ("authority", &matched.authority),
    ] {
        let Some(value) = value else { continue };
        let at = at.field(field);
        on.string_match(&at, value);
        let StringMatch::Exact(text) = value else {
            continue;
        };
        let meant = match field {
            "method" => text.to_ascii_uppercase(),
            _ => text.to_ascii_lowercase(),
        };
        if meant != *text {
            on.warning(
                Code::Unreachable,
                &at.field("exact"),
                format!("`{text}` matches no request: the comparison is case-sensitive"),
            )
            .help(format!("write `{meant}`"));
        }
    }
    for (field, map) in [
        ("headers", &matched.headers),
        ("withoutHeaders", &matched.without_headers),
    ] {
        let at = at.field(field);
        for (name, value) in map {
            let at = at.field(name);
            if name.starts_with("@request.auth.") {
                on.error(
                    Code::NotSupportedYet,
                    &at,
                    "claims of tokens are not validated yet, and matching without them would let everyone in",
                )
                .help("remove the match");
            } else if matches!(name.as_str(), "uri" | "scheme" | "method" | "authority") {
                on.warning(
                    Code::NoEffect,
                    &at,
                    format!("the header name `{name}` is reserved and ignored"),
                )
                .help(format!("use the field `{name}` of the match"));
            } else if on.header(&at, name) {
                on.string_match(&at, value);
            }
        }
    }
    let params = at.field("queryParams");
    for (name, value) in &matched.query_params {
        on.string_match(&params.field(name), value);
    }
    common(on, at, matched.port, &matched.gateways);
}

fn redirect(on: &mut Checker<'_>, at: &Path<'_>, to: &HttpRedirect, route: &HttpRoute) {
    if *to == HttpRedirect::default() {
        on.error(Code::EmptyField, at, "this redirect leads nowhere")
            .help("set uri, prefixRewrite, authority, scheme or port");
    }
    if let Some(code) = to.redirect_code
        && !matches!(code, 301 | 302 | 303 | 307 | 308)
    {
        on.error(
            Code::InvalidValue,
            &at.field("redirectCode"),
            format!("{code} does not redirect"),
        )
        .help("301, 302, 303, 307 or 308");
    }
    if let Some(scheme) = &to.scheme
        && !matches!(scheme.as_str(), "http" | "https")
    {
        on.error(
            Code::InvalidValue,
            &at.field("scheme"),
            format!("`{scheme}` is not a scheme of HTTP"),
        )
        .help("http or https");
    }
    let by_prefix = |matched: &HttpMatch| matches!(matched.uri, Some(StringMatch::Prefix(_)));
    if to.prefix_rewrite.is_some() && !route.matches.iter().all(by_prefix) {
        on.warning(
            Code::NoEffect,
            &at.field("prefixRewrite"),
            "there is a match without a `uri` prefix to replace",
        )
        .help("match by `uri: {prefix: …}`, or use `uri`");
    }
}

fn rewrite(on: &mut Checker<'_>, at: &Path<'_>, to: &HttpRewrite) {
    if *to == HttpRewrite::default() {
        on.error(Code::EmptyField, at, "this rewrite changes nothing")
            .help("set uri, authority or uriRegexRewrite");
    }
    if let Some(regex) = &to.uri_regex_rewrite {
        let at = at.field("uriRegexRewrite");
        if on.regex(&at.field("match"), &regex.matches) {
            let groups = regex::Regex::new(&regex.matches).map_or(0, |r| r.captures_len());
            let named = regex.rewrite.as_bytes().windows(2);
            let beyond = named
                .filter(|pair| pair[0] == b'\\' && pair[1].is_ascii_digit())
                .any(|pair| usize::from(pair[1] - b'0') >= groups);
            if beyond {
                on.error(
                    Code::InvalidRegex,
                    &at.field("rewrite"),
                    "this refers to a group that the regex does not have",
                )
                .help("\\1 is the first group in parentheses");
            }
        }
    }
}

fn retry(on: &mut Checker<'_>, at: &Path<'_>, retries: &HttpRetry, route: &HttpRoute) {
    let attempts = at.field("attempts");
    match retries.attempts {
        None => {
            on.warning(
                Code::NoEffect,
                at,
                "without `attempts` this block switches retries off",
            )
            .help("add `attempts:`, the number of retries after the first try");
        }
        Some(count) if count < 0 => {
            on.error(Code::InvalidValue, &attempts, "this must not be negative")
                .help("0 switches retries off");
        }
        Some(0) if retries.retry_on.is_some() || retries.per_try_timeout.is_some() => {
            on.warning(
                Code::NoEffect,
                &attempts,
                "no retries: the other fields have no effect",
            );
        }
        Some(_) => {}
    }
    on.at_least_1ms(&at.field("perTryTimeout"), retries.per_try_timeout);
    on.at_least_1ms(&at.field("backoff"), retries.backoff);
    tries(on, at, retries, route);
    if let Some(list) = &retries.retry_on {
        conditions(on, &at.field("retryOn"), list, retries, route);
    }
}

/// The tries must fit in the route's timeout.
fn tries(on: &mut Checker<'_>, at: &Path<'_>, retries: &HttpRetry, route: &HttpRoute) {
    let (Some(timeout), Some(per_try)) = (
        route.timeout.filter(|timeout| *timeout > Duration::ZERO),
        retries.per_try_timeout,
    ) else {
        return;
    };
    let count = u32::try_from(retries.attempts.unwrap_or(0).max(0)).unwrap_or(0);
    let all = per_try.saturating_mul(count.saturating_add(1));
    let at = at.field("perTryTimeout");
    if per_try >= timeout {
        on.warning(
            Code::TryTimeout,
            &at,
            format!("one try may take {per_try:?}, the whole request only {timeout:?}: nothing is retried after a slow try"),
        )
        .help("make perTryTimeout shorter than timeout");
    } else if count > 0 && all > timeout {
        on.warning(
            Code::TryTimeout,
            &at,
            format!("{} tries of {per_try:?} are {all:?}, the whole request may take {timeout:?}: the last ones are cut off", count + 1),
        )
        .help("raise timeout, or lower perTryTimeout or attempts");
    }
}

fn conditions(
    on: &mut Checker<'_>,
    at: &Path<'_>,
    list: &str,
    retries: &HttpRetry,
    route: &HttpRoute,
) {
    let (set, others) = RetryOn::parse(list);
    let is_code = |token: &&str| {
        token
            .parse::<u16>()
            .is_ok_and(|code| (100..=599).contains(&code))
    };
    let codes = others.iter().any(is_code);
    for token in others.iter().filter(|token| !is_code(token)) {
        let help = match nearest(token, CONDITIONS.iter().map(|(name, _)| *name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let names: Vec<&str> = CONDITIONS.iter().map(|(name, _)| *name).collect();
                format!("one of {}, or a status code", names.join(", "))
            }
        };
        on.warning(
            Code::RetryCondition,
            at,
            format!("`{token}` is not a retry condition and is ignored"),
        )
        .help(help);
    }
    // Conditions under which the upstream may already have acted.
    let acted = RetryOn::SERVER_ERROR
        .union(RetryOn::GATEWAY_ERROR)
        .union(RetryOn::RESET)
        .union(RetryOn::RETRIABLE_4XX)
        .union(RetryOn::RETRIABLE_STATUS_CODES)
        .union(RetryOn::RETRIABLE_HEADERS);
    let unsafe_method = |matched: &HttpMatch| match &matched.method {
        Some(StringMatch::Exact(method)) => matches!(method.as_str(), "POST" | "PATCH"),
        Some(StringMatch::Prefix(prefix)) => "POST".starts_with(prefix.as_str()),
        Some(StringMatch::Regex(regex)) => {
            Pattern::new(regex).is_ok_and(|regex| regex.is_match("POST") || regex.is_match("PATCH"))
        }
        Some(StringMatch::Present) | None => false,
    };
    if retries.attempts.unwrap_or(0) > 0
        && (set.any(acted) || codes)
        && route.matches.iter().any(unsafe_method)
    {
        on.warning(
            Code::UnsafeRetry,
            at,
            "this repeats POST or PATCH after the service may have acted on it",
        )
        .help("retry them on connect-failure,refused-stream only, or make sure that repeating is harmless");
    }
}

fn faults(on: &mut Checker<'_>, at: &Path<'_>, fault: &HttpFaultInjection, route: &HttpRoute) {
    if fault.delay.is_none() && fault.abort.is_none() {
        on.error(Code::EmptyField, at, "this fault does nothing")
            .help("add `delay:` or `abort:`");
    }
    if let Some(delay) = &fault.delay {
        slow(on, &at.field("delay"), delay);
    }
    if let Some(abort) = &fault.abort {
        fail(on, &at.field("abort"), abort);
    }
    if route.timeout.is_some() || route.retries.is_some() {
        on.warning(
            Code::NoEffect,
            at,
            "on a route with a fault, its timeout and retries are not applied",
        )
        .help("put the fault on a route of its own");
    }
}

fn slow(on: &mut Checker<'_>, at: &Path<'_>, delay: &FaultDelay) {
    if delay.fixed_delay.is_none() {
        on.error(Code::MissingField, at, "`fixedDelay` is missing")
            .help("add `fixedDelay: 5s`");
    }
    on.at_least_1ms(&at.field("fixedDelay"), delay.fixed_delay);
    let share = delay
        .percentage
        .map(|p| p.value)
        .or(delay.percent.map(f64::from));
    portion(on, at, share);
}

fn fail(on: &mut Checker<'_>, at: &Path<'_>, abort: &FaultAbort) {
    if abort.http_status.is_none() && abort.grpc_status.is_none() {
        on.error(Code::MissingField, at, "an abort needs a status")
            .help("add `httpStatus:` or `grpcStatus:`");
    }
    if let Some(status) = abort.http_status
        && !(200..=599).contains(&status)
    {
        on.error(
            Code::InvalidValue,
            &at.field("httpStatus"),
            format!("{status} is not the status of a final response"),
        )
        .help("200 to 599");
    }
    if let Some(status) = &abort.grpc_status
        && grpc::status(status).is_none()
    {
        let help = match nearest(status, grpc::STATUSES) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "a name such as UNAVAILABLE".to_owned(),
        };
        on.error(
            Code::InvalidValue,
            &at.field("grpcStatus"),
            format!("`{status}` is not a gRPC status"),
        )
        .help(help);
    }
    portion(on, at, abort.percentage.map(|p| p.value));
}

/// The share of requests that a fault hits; unset is none.
fn portion(on: &mut Checker<'_>, at: &Path<'_>, share: Option<f64>) {
    match share {
        None => {
            on.warning(
                Code::NoEffect,
                at,
                "without a percentage the fault hits no request",
            )
            .help("add `percentage: {value: 100}`");
        }
        Some(value) => {
            let at = at.field("percentage");
            on.percent(&at.field("value"), value);
        }
    }
}

fn mirrors(on: &mut Checker<'_>, at: &Path<'_>, route: &HttpRoute) {
    if let Some(to) = &route.mirror {
        destination(on, &at.field("mirror"), to);
    }
    let share = at.field("mirrorPercentage");
    if let Some(percent) = route.mirror_percentage {
        on.percent(&share.field("value"), percent.value);
        if route.mirror.is_none() {
            on.warning(
                Code::NoEffect,
                &share,
                "there is no `mirror` that this applies to",
            )
            .help("set the percentage in each item of `mirrors`");
        }
    }
    if route.mirror_percent.is_some() {
        on.warning(
            Code::Deprecated,
            &at.field("mirrorPercent"),
            "`mirrorPercent` is deprecated",
        )
        .help("use `mirrorPercentage: {value: …}`");
    }
    let list = at.field("mirrors");
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let at = list.index(index);
        destination(on, &at.field("destination"), &mirror.destination);
        if let Some(percent) = mirror.percentage {
            let at = at.field("percentage");
            on.percent(&at.field("value"), percent.value);
        }
    }
}

/// Framing and connection headers are the proxy's own.
const UNTOUCHABLE: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

fn headers(on: &mut Checker<'_>, at: &Path<'_>, headers: Option<&Headers>) {
    let Some(headers) = headers else { return };
    for (field, operations) in [
        ("request", &headers.request),
        ("response", &headers.response),
    ] {
        if let Some(operations) = operations {
            edits(on, &at.field(field), operations);
        }
    }
}

fn edits(on: &mut Checker<'_>, at: &Path<'_>, operations: &HeaderOperations) {
    for (field, map) in [("set", &operations.set), ("add", &operations.add)] {
        let at = at.field(field);
        for (name, value) in map {
            let at = at.field(name);
            if edited(on, &at, name) {
                on.header_value(&at, value);
            }
        }
    }
    let list = at.field("remove");
    for (index, name) in operations.remove.iter().enumerate() {
        edited(on, &list.index(index), name);
    }
}

fn edited(on: &mut Checker<'_>, at: &Path<'_>, name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    if lower == ":authority" || lower == "host" {
        return true;
    }
    if lower.starts_with(':') || UNTOUCHABLE.contains(&lower.as_str()) {
        on.report_key(
            Severity::Warning,
            Code::NoEffect,
            at,
            format!("`{name}` belongs to the connection and is not edited"),
        )
        .help("remove it; `rewrite` changes the path and the authority");
        return false;
    }
    // Edited names may be written in any case: HTTP/1 clients see what HTTP says about case, nothing.
    if !crate::validate::leaf::is_token(name) {
        on.report_key(
            Severity::Error,
            Code::InvalidHeader,
            at,
            format!("`{name}` is not a header name"),
        )
        .help("letters, digits and dashes");
        return false;
    }
    true
}
