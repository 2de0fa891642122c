//! An `HTTPRoute` → what happens to the requests it matches.

use std::sync::Arc;

use base64::Engine;
use ripstop_model::defaults::istio;
use ripstop_model::grpc;
use ripstop_model::intent::selection::Percent;
use ripstop_model::intent::virtual_service::{
    CorsPolicy, DerivePort, HeaderOperations, Headers, HttpFaultInjection, HttpRedirect, HttpRoute,
    UnmatchedPreflights,
};
use ripstop_model::snapshot::Fraction;
use ripstop_model::snapshot::fault::{Abort, Delay, Fault};
use ripstop_model::snapshot::header::{Append, Edit, Edits, HeaderEdits};
use ripstop_model::snapshot::http::PerFilter;
use ripstop_model::snapshot::matching::{Pattern, StringMatch};
use ripstop_model::snapshot::route::{
    Action, Cors, Direct, Forward, GrpcTimeout, HostRewrite, Mirror, PathRewrite, Redirect,
    RedirectPath, Share,
};

use super::{Context, explicit_retry, forward, implicit_retry, limit, matching};

/// `None`: it holds an expression that does not compile, or leads nowhere.
pub(super) fn compile(
    context: &Context<'_, '_>,
    http: &HttpRoute,
) -> Option<(Action, HeaderEdits, PerFilter)> {
    let mut headers = edits(http.headers.as_ref());
    if let [only] = http.route.as_slice() {
        // There is no share to carry them; a share's edits come before the route's.
        prepend(&mut headers, edits(only.headers.as_ref()));
    }
    let per_filter = PerFilter {
        fault: http
            .fault
            .as_ref()
            .map(|fault| Arc::new(self::fault(fault))),
        cors: match &http.cors_policy {
            Some(policy) => Some(Arc::new(cors(policy)?)),
            None => None,
        },
        authz: Vec::new(),
    };
    let action = if let Some(to) = &http.redirect {
        redirect(to, context.port)?
    } else if let Some(answer) = &http.direct_response {
        let body = answer.body.as_ref();
        let text = body.and_then(|body| body.string.clone());
        let bytes = body.and_then(|body| body.bytes.as_deref()).map(|encoded| {
            base64::engine::general_purpose::STANDARD
                .decode(encoded)
                .unwrap_or_default()
        });
        Action::Direct(Direct {
            status: answer.status,
            body: text.map(String::into_bytes).or(bytes).unwrap_or_default(),
        })
    } else {
        Action::Forward(Box::new(to_destinations(context, http)?))
    };
    Some((action, headers, per_filter))
}

fn to_destinations(context: &Context<'_, '_>, http: &HttpRoute) -> Option<Forward> {
    let to = context.http_split(&http.route, |index, cluster, weight| {
        let own = http.route.get(index).and_then(|d| d.headers.as_ref());
        Share {
            cluster,
            weight,
            criteria: None,
            headers: edits(own),
            host_rewrite: authority(own),
            per_filter: PerFilter::default(),
        }
    })?;
    let only = match http.route.as_slice() {
        [only] => only.headers.as_ref(),
        _ => None,
    };
    let rewrite = http.rewrite.as_ref();
    let path_rewrite = match rewrite {
        Some(rewrite) => match (&rewrite.uri_regex_rewrite, &rewrite.uri) {
            (Some(regex), _) => PathRewrite::Regex {
                pattern: Pattern::new(&regex.matches).ok()?,
                substitution: regex.rewrite.clone(),
            },
            (None, Some(uri)) => PathRewrite::Prefix(uri.clone()),
            (None, None) => PathRewrite::None,
        },
        None => PathRewrite::None,
    };
    let host = rewrite
        .and_then(|rewrite| rewrite.authority.clone())
        .or_else(|| authority(http.headers.as_ref()))
        .or_else(|| authority(only));
    // A fault is injected once per request as the client sees it: Istio applies neither timeout nor retries beside one.
    let faulty = http.fault.is_some();
    let timeout = limit(http.timeout).filter(|_| !faulty);
    let retry = match &http.retries {
        _ if faulty => None,
        Some(retries) => explicit_retry(retries),
        None => implicit_retry(context.view),
    };
    Some(Forward {
        path_rewrite,
        host_rewrite: host.map_or(HostRewrite::None, HostRewrite::Literal),
        timeout,
        grpc_timeout: Some(GrpcTimeout {
            max: timeout,
            ..GrpcTimeout::default()
        }),
        retry,
        mirrors: mirrors(context, http),
        ..forward(to)
    })
}

fn mirrors(context: &Context<'_, '_>, http: &HttpRoute) -> Vec<Mirror> {
    let share = |percentage: Option<Percent>| {
        percentage.map_or(Fraction::ALWAYS, |percent| Fraction::percent(percent.value))
    };
    let mirror = |destination, fraction| Mirror {
        cluster: context.cluster(destination),
        fraction,
        shadow_suffix: false,
    };
    let deprecated = http.mirror_percent.map(|percent| Percent {
        value: f64::from(percent),
    });
    http.mirror
        .iter()
        .map(|to| mirror(to, share(http.mirror_percentage.or(deprecated))))
        .chain(
            http.mirrors
                .iter()
                .map(|policy| mirror(&policy.destination, share(policy.percentage))),
        )
        .filter(|mirror| mirror.fraction != Fraction::NEVER)
        .collect()
}

/// A path that a prefix match can replace only in part is left to the prefix; Istio drops redirect codes it does not know.
fn redirect(to: &HttpRedirect, listening: u16) -> Option<Action> {
    let status = to.redirect_code.unwrap_or(istio::REDIRECT_CODE);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    // These routes serve one port, in plain text, so the port of the request is known here; the protocol's own is what no port
    // means.
    let port = match to.derive_port {
        Some(DerivePort::FromRequestPort) => Some(listening),
        Some(DerivePort::FromProtocolDefault) | None => to.port,
    };
    let port = port.filter(|port| {
        !matches!(
            (to.scheme.as_deref().unwrap_or("http"), port),
            ("http", 80) | ("https", 443)
        )
    });
    Some(Action::Redirect(Box::new(Redirect {
        scheme: to.scheme.clone(),
        https: false,
        host: to.authority.clone(),
        port,
        path: match (&to.uri, &to.prefix_rewrite) {
            (Some(uri), _) => RedirectPath::Full(uri.clone()),
            (None, Some(prefix)) => RedirectPath::Prefix(prefix.clone()),
            (None, None) => RedirectPath::Keep,
        },
        status,
        strip_query: false,
    })))
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

/// A `host` or `:authority` in `set` or `add` rewrites the authority; `set` wins (B1).
fn authority(headers: Option<&Headers>) -> Option<String> {
    let request = headers?.request.as_ref()?;
    let of = |map: &std::collections::BTreeMap<String, String>| {
        map.iter()
            .find(|(name, _)| is_authority(name))
            .map(|(_, value)| value.clone())
    };
    of(&request.set).or_else(|| of(&request.add))
}

fn prepend(headers: &mut HeaderEdits, first: HeaderEdits) {
    for (side, first) in [
        (&mut headers.request, first.request),
        (&mut headers.response, first.response),
    ] {
        side.remove.splice(0..0, first.remove);
        side.add.splice(0..0, first.add);
    }
}

pub(super) fn edits(headers: Option<&Headers>) -> HeaderEdits {
    let side = |operations: Option<&HeaderOperations>| {
        operations.map(operations_to_edits).unwrap_or_default()
    };
    HeaderEdits {
        request: side(headers.and_then(|headers| headers.request.as_ref())),
        response: side(headers.and_then(|headers| headers.response.as_ref())),
    }
}

fn operations_to_edits(operations: &HeaderOperations) -> Edits {
    let editable = |name: &str| !name.starts_with(':') && !is_authority(name);
    let edit = |(name, value): (&String, &String), append| Edit {
        name: name.to_ascii_lowercase(),
        value: value.clone(),
        append,
        keep_empty: false,
    };
    let set = operations
        .set
        .iter()
        .filter(|(name, _)| editable(name))
        .map(|pair| edit(pair, Append::OverwriteIfExistsOrAdd));
    let add = operations
        .add
        .iter()
        .filter(|(name, _)| editable(name))
        .map(|pair| edit(pair, Append::AppendIfExistsOrAdd));
    Edits {
        remove: operations
            .remove
            .iter()
            .filter(|name| editable(name))
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        add: set.chain(add).collect(),
    }
}

fn fault(injection: &HttpFaultInjection) -> Fault {
    let share = |percentage: Option<Percent>, deprecated: Option<u32>| {
        let percent = percentage
            .map(|percent| percent.value)
            .or(deprecated.map(f64::from))
            .unwrap_or(0.0);
        Fraction::percent(percent)
    };
    Fault {
        delay: injection.delay.as_ref().and_then(|delay| {
            let fixed = delay.fixed_delay?;
            Some((share(delay.percentage, delay.percent), Delay::Fixed(fixed)))
        }),
        abort: injection.abort.as_ref().and_then(|abort| {
            let with = match (abort.http_status, abort.grpc_status.as_deref()) {
                (Some(status), _) => Abort::Http(status),
                (None, Some(name)) => Abort::Grpc(grpc::status(name)?),
                (None, None) => return None,
            };
            Some((share(abort.percentage, None), with))
        }),
        ..Fault::default()
    }
}

fn cors(policy: &CorsPolicy) -> Option<Cors> {
    let mut allow_origins = Vec::new();
    for typed in &policy.allow_origins {
        allow_origins.push(matching::string(typed)?.unwrap_or_else(|| StringMatch::prefix("")));
    }
    for origin in &policy.allow_origin {
        allow_origins.push(if origin == "*" {
            StringMatch::prefix("")
        } else {
            StringMatch::exact(origin)
        });
    }
    Some(Cors {
        allow_origins,
        allow_methods: policy.allow_methods.join(","),
        allow_headers: policy.allow_headers.join(","),
        expose_headers: policy.expose_headers.join(","),
        max_age: policy
            .max_age
            .map(|age| age.as_secs().to_string())
            .unwrap_or_default(),
        allow_credentials: policy.allow_credentials.filter(|allowed| *allowed),
        forward_unmatched_preflights: Some(
            policy.unmatched_preflights != Some(UnmatchedPreflights::Ignore),
        ),
    })
}
