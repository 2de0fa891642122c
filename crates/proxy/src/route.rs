//! What the selected route asks for: edits compiled, redirects, rewrites, timeouts. Selecting is [`ripstop_model::route`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::authz::Judge;
use ripstop_model::reason::Reason;
use ripstop_model::request::RequestView;
use ripstop_model::route::{Miss, Selected};
use ripstop_model::snapshot::header::HeaderEdits;
use ripstop_model::snapshot::http::PerFilter;
use ripstop_model::snapshot::matching::Pattern;
use ripstop_model::snapshot::route::{
    Action, Direct, Forward, HostRewrite, PathMatch, PathRewrite, Redirect, RedirectPath,
    RequireTls, RouteConfig, Share, Split,
};
use ripstop_model::snapshot::{Name, Resource};

use crate::headers::Known;
use crate::http::is_grpc;
use crate::message::RequestHead;
use crate::policy::headers::Compiled;
use crate::reply::Reply;
use crate::retry::milliseconds;

/// A route table with its header edits and authorization overrides compiled.
pub struct Table {
    table: ripstop_model::route::Table,
    /// By the address of the table, virtual host, route or share, which the table keeps alive. Only what has something.
    levels: HashMap<usize, Level>,
}

/// What one level of configuration adds.
#[derive(Debug, Default)]
pub struct Level {
    pub request: Compiled,
    pub response: Compiled,
    /// `None`: the filter is off.
    pub authz: Vec<(Name, Option<Judge>)>,
}

impl Level {
    fn new(edits: &HeaderEdits, per_filter: Option<&PerFilter>) -> Level {
        let authz = per_filter.map(|settings| settings.authz.as_slice());
        Level {
            request: Compiled::new(&edits.request),
            response: Compiled::new(&edits.response),
            authz: authz
                .unwrap_or_default()
                .iter()
                .map(|instead| {
                    let judge = instead.rules.as_ref();
                    let judge = judge.map(|rules| Judge::new(std::slice::from_ref(rules)));
                    (instead.filter.clone(), judge)
                })
                .collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty() && self.authz.is_empty()
    }
}

fn at<T>(thing: &T) -> usize {
    std::ptr::from_ref(thing).addr()
}

impl Table {
    pub fn new(config: Arc<RouteConfig>) -> Table {
        let mut levels = HashMap::new();
        let mut add = |key: usize, level: Level| {
            if !level.is_empty() {
                levels.insert(key, level);
            }
        };
        add(at(&*config), Level::new(&config.headers, None));
        for host in &config.hosts {
            add(
                at(&**host),
                Level::new(&host.headers, Some(&host.per_filter)),
            );
            for route in &host.routes {
                add(
                    at(&**route),
                    Level::new(&route.headers, Some(&route.per_filter)),
                );
                if let Action::Forward(forward) = &route.action
                    && let Split::Weighted { shares, .. } = &forward.to
                {
                    for share in shares {
                        add(
                            at(share),
                            Level::new(&share.headers, Some(&share.per_filter)),
                        );
                    }
                }
            }
        }
        Table {
            table: ripstop_model::route::Table::new(config),
            levels,
        }
    }

    pub fn config(&self) -> &Arc<RouteConfig> {
        &self.table.config
    }

    /// The user's resource that a host's routes come from, where they come from one.
    pub fn resource_of(&self, authority: &str) -> Option<&Resource> {
        let routes = &self.table.host(authority)?.routes;
        routes.iter().find_map(|route| route.resource.as_ref())
    }

    pub fn select(
        &self,
        request: &RequestHead,
        draw: u64,
        tls: bool,
    ) -> Result<Selected<'_>, Miss> {
        self.table.select(request, draw, tls)
    }

    /// The levels that have edits, in the order they apply: share, route, virtual host, table, or the other way round
    /// where the table says that the most specific wins.
    pub fn levels<'t>(
        &'t self,
        selected: &Selected<'_>,
        share: Option<&Share>,
    ) -> impl Iterator<Item = &'t Level> + use<'t> {
        let mut keys = [
            share.map(at),
            Some(at(&**selected.route)),
            Some(at(&**selected.host)),
            Some(at(&**self.config())),
        ];
        if self.config().most_specific_headers_win {
            keys.reverse();
        }
        let none = self.levels.is_empty();
        keys.into_iter()
            .filter(move |_| !none)
            .filter_map(|key| self.levels.get(&key?))
    }

    /// What stands in the place of a named RBAC filter, the most specific level first.
    pub fn authz(
        &self,
        selected: &Selected<'_>,
        share: Option<&Share>,
        filter: &Name,
    ) -> Option<Option<&Judge>> {
        if self.levels.is_empty() {
            return None;
        }
        let keys = [
            share.map(at),
            Some(at(&**selected.route)),
            Some(at(&**selected.host)),
        ];
        keys.into_iter()
            .flatten()
            .filter_map(|key| self.levels.get(&key))
            .flat_map(|level| &level.authz)
            .find(|(name, _)| name == filter)
            .map(|(_, judge)| judge.as_ref())
    }
}

/// Whether the virtual host wants TLS and this request had none where it entered, by `x-forwarded-proto`, which the
/// connection manager has vouched for: then it is sent to `https`.
pub fn requires_tls(selected: &Selected<'_>, head: &RequestHead, internal: bool) -> bool {
    let tls = || head.headers.text(Known::XForwardedProto) == Some("https");
    match selected.host.require_tls {
        RequireTls::No => false,
        RequireTls::ExternalOnly => !internal && !tls(),
        RequireTls::All => !tls(),
    }
}

pub fn direct(direct: &Direct) -> Box<Reply> {
    let mut reply = Reply::new(Reason::DirectResponse);
    reply.status = direct.status;
    reply.body = direct.body.clone().into();
    reply
}

/// To the same URL over `https`.
pub fn to_https(head: &RequestHead) -> Box<Reply> {
    let redirect = Redirect {
        https: true,
        status: 301,
        ..Redirect::default()
    };
    let mut reply = answer_redirect(&redirect, &PathMatch::Prefix("/".to_owned()), head);
    reply.reason = Reason::TlsRequired;
    reply
}

/// The reply with its `location` (Envoy's `newUri`).
pub fn answer_redirect(redirect: &Redirect, matched: &PathMatch, head: &RequestHead) -> Box<Reply> {
    let came = head.scheme.as_str();
    let scheme = match (&redirect.scheme, redirect.https) {
        (Some(scheme), _) => scheme.as_str(),
        (None, true) => "https",
        (None, false) => came,
    };
    let host = match &redirect.host {
        Some(host) => host.as_str(),
        None => {
            let authority = head.authority_sent();
            let (bare, port) = split_port(authority);
            let implied = matches!(
                (came, scheme, port),
                ("http", "https", Some("80")) | ("https", "http", Some("443"))
            );
            match redirect.port.is_some() || implied {
                true => bare,
                false => authority,
            }
        }
    };
    let port = redirect.port.map(|port| format!(":{port}"));
    let query = match (redirect.strip_query, head.query()) {
        (false, Some(query)) => format!("?{query}"),
        _ => String::new(),
    };
    let path = match &redirect.path {
        RedirectPath::Keep => format!("{}{query}", head.path()),
        RedirectPath::Full(path) if path.contains('?') => path.clone(),
        RedirectPath::Full(path) => format!("{path}{query}"),
        RedirectPath::Prefix(prefix) => {
            format!("{}{query}", replace_prefix(head.path(), matched, prefix))
        }
        RedirectPath::Regex {
            pattern,
            substitution,
        } => format!("{}{query}", pattern.substitute(head.path(), substitution)),
    };
    let mut reply = Reply::new(Reason::Redirected);
    reply.status = redirect.status;
    let location = format!("{scheme}://{host}{}{path}", port.unwrap_or_default());
    reply.headers.push(("location", location));
    reply
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            (host, Some(port))
        }
        _ => (authority, None),
    }
}

/// The path with what the match matched replaced.
fn replace_prefix(path: &str, matched: &PathMatch, instead: &str) -> String {
    let length = match matched {
        PathMatch::Prefix(prefix) | PathMatch::SegmentPrefix(prefix) => prefix.len(),
        PathMatch::Exact(_) | PathMatch::Regex(_) | PathMatch::Connect => path.len(),
    };
    format!("{instead}{}", path.get(length..).unwrap_or_default())
}

/// Rewrites path and authority as the route asks; with `originals`, what they were goes along in
/// `x-envoy-original-path` and `x-envoy-original-host`. The endpoint's own name (`HostRewrite::Auto`) comes later, when there
/// is an endpoint.
pub fn rewrite(
    forward: &Forward,
    share: Option<&Share>,
    matched: &PathMatch,
    originals: bool,
    head: &mut RequestHead,
) {
    let path = match &forward.path_rewrite {
        PathRewrite::None => None,
        PathRewrite::Prefix(instead) => Some(replace_prefix(head.path(), matched, instead)),
        PathRewrite::Regex {
            pattern,
            substitution,
        } => Some(pattern.substitute(head.path(), substitution)),
        PathRewrite::Full(path) => Some(path.clone()),
    };
    if let Some(path) = path {
        if originals {
            let original = head.path_and_query().into_owned();
            head.headers.set_named("x-envoy-original-path", original);
        }
        match path.contains('?') {
            true => head.set_path_and_query(&path),
            false => head.set_path(&path),
        }
    }
    let by_regex =
        |pattern: &Pattern, substitution: &str| pattern.substitute(head.path(), substitution);
    let host = match (
        share.and_then(|share| share.host_rewrite.as_ref()),
        &forward.host_rewrite,
    ) {
        (Some(host), _) => Some(host.clone()),
        (None, HostRewrite::None | HostRewrite::Auto) => None,
        (None, HostRewrite::Literal(host)) => Some(host.clone()),
        (None, HostRewrite::Header(name)) => head.header(name).map(|host| host.into_owned()),
        (
            None,
            HostRewrite::PathRegex {
                pattern,
                substitution,
            },
        ) => Some(by_regex(pattern, substitution)),
    };
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        // Envoy says nothing of what a share of a split rewrote.
        if originals && share.is_none_or(|share| share.host_rewrite.is_none()) {
            let original = head.authority_sent().to_owned();
            head.headers.set_named("x-envoy-original-host", original);
        }
        rewrite_host(forward, &host, head);
    }
}

pub fn rewrite_host(forward: &Forward, host: &str, head: &mut RequestHead) {
    if forward.append_forwarded_host {
        let original = head.authority_sent();
        let all = match head.headers.joined("x-forwarded-host") {
            Some(before) => format!("{before},{original}"),
            None => original.to_owned(),
        };
        head.headers.set_named("x-forwarded-host", all);
    }
    head.set_authority(host);
}

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the end of the request to the end of the response, retries included.
    pub total: Option<Duration>,
    /// From the first byte to the last, whatever moves in between.
    pub stream: Option<Duration>,
    pub told: Told,
}

/// What the upstream reads in `grpc-timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// What the client wrote.
    AsAsked,
    /// [`Limits::stream`]; nothing where there is none.
    Stream,
    /// What is left of [`Limits::total`], or the limit of the attempt.
    Left,
}

/// The route's timeouts, what the caller asked for by header, and the deadline of a gRPC call.
pub fn limits(
    forward: &Forward,
    proxy_stream: Option<Duration>,
    head: &RequestHead,
    honour: bool,
    respect_expected: bool,
) -> Limits {
    let call = is_grpc(head);
    let asked = || head.headers.text(Known::GrpcTimeout).and_then(grpc_timeout);
    let mut told = Told::AsAsked;
    let mut total = forward.timeout;
    let mut stream = proxy_stream;
    if let Some(longest) = &forward.max_stream_duration {
        total = None;
        stream = match (longest.grpc_max, asked()) {
            (Some(cap), Some(asked)) => {
                let capped = cap.map_or(asked, |cap| asked.min(cap));
                Some(capped.saturating_sub(longest.grpc_offset))
            }
            _ => longest.limit.unwrap_or(proxy_stream),
        };
        // Where nobody limits the stream, what the caller asked of the upstream stays its own affair.
        if call && (stream.is_some() || longest.limit.is_some() || longest.grpc_max.is_some()) {
            told = Told::Stream;
        }
    } else if let Some(grpc) = forward.grpc_timeout.filter(|_| call) {
        let asked = asked().unwrap_or_default();
        let less = asked.checked_sub(grpc.offset).filter(|d| !d.is_zero());
        let asked = less.unwrap_or(asked);
        total = Some(match grpc.max {
            Some(max) if asked.is_zero() => max,
            Some(max) => asked.min(max),
            None => asked,
        });
        told = Told::Left;
    }
    if honour {
        // What the hop before expects comes before what was asked for.
        let expected = || milliseconds(head, "x-envoy-expected-rq-timeout-ms");
        let asked = || milliseconds(head, "x-envoy-upstream-rq-timeout-ms");
        let limit = respect_expected.then(expected).flatten().or_else(asked);
        total = limit.or(total);
    }
    Limits {
        total: total.filter(|limit| !limit.is_zero()),
        stream: stream.filter(|limit| !limit.is_zero()),
        told,
    }
}

/// A limit as `grpc-timeout` says it: milliseconds as long as eight digits hold them.
pub fn grpc_timeout_text(limit: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let millis = limit.as_millis();
    let units = [(1, 'm'), (1000, 'S'), (60_000, 'M')];
    let fits = units.iter().find(|(size, _)| millis / size <= MOST);
    match fits {
        Some((size, unit)) => format!("{}{unit}", millis / size),
        None => format!("{}H", (millis / 3_600_000).min(MOST)),
    }
}

/// `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2, "Requests").
pub fn grpc_timeout(value: &str) -> Option<Duration> {
    let unit = value.chars().last()?;
    let digits = value.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(count * 3600),
        'M' => Duration::from_secs(count * 60),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Scheme;

    fn get(authority: &str, path: &str) -> RequestHead {
        RequestHead::build("GET", Scheme::Http, authority, path)
    }

    fn location(redirect: &Redirect, authority: &str, path: &str) -> String {
        let matched = PathMatch::Prefix("/old".to_owned());
        let reply = answer_redirect(redirect, &matched, &get(authority, path));
        reply.headers[0].1.clone()
    }

    #[test]
    fn redirects_as_envoy_builds_them() {
        let plain = Redirect {
            status: 301,
            ..Redirect::default()
        };
        let https = Redirect {
            https: true,
            ..plain.clone()
        };
        assert_eq!(
            location(&https, "a.test:80", "/old?x=1"),
            "https://a.test/old?x=1"
        );
        assert_eq!(
            location(&https, "a.test:8080", "/old"),
            "https://a.test:8080/old"
        );
        let host = Redirect {
            host: Some("b.test".into()),
            ..plain.clone()
        };
        assert_eq!(location(&host, "a.test:8080", "/old"), "http://b.test/old");
        let port = Redirect {
            port: Some(8443),
            ..https
        };
        assert_eq!(
            location(&port, "a.test:80", "/old"),
            "https://a.test:8443/old"
        );
        let prefix = Redirect {
            path: RedirectPath::Prefix("/new".into()),
            ..plain.clone()
        };
        assert_eq!(
            location(&prefix, "a.test", "/old/x?q"),
            "http://a.test/new/x?q"
        );
        let full = Redirect {
            path: RedirectPath::Full("/f?y=2".into()),
            ..plain.clone()
        };
        assert_eq!(location(&full, "a.test", "/old?q"), "http://a.test/f?y=2");
        let strip = Redirect {
            strip_query: true,
            ..plain
        };
        assert_eq!(location(&strip, "a.test", "/old?q"), "http://a.test/old");
    }

    #[test]
    fn grpc_deadlines() {
        for (value, want) in [
            ("1S", Some(Duration::from_secs(1))),
            ("100m", Some(Duration::from_millis(100))),
            ("2H", Some(Duration::from_secs(7200))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789m", None),
            ("m", None),
            ("1", None),
            ("-1S", None),
        ] {
            assert_eq!(grpc_timeout(value), want, "{value}");
        }
    }
}
