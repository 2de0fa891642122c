//! CORS: preflights answered here, `access-control-*` on the responses to allowed origins (Fetch standard, section 3.3).

use std::borrow::Cow;

use ripstop_model::reason::Reason;
use ripstop_model::snapshot::route::Cors;

use crate::headers::Known;
use crate::http::Request;
use crate::message::{Method, RequestHead, ResponseHead};
use crate::reply::Reply;

/// Answers a preflight from an allowed origin; everything else goes on.
pub fn answer(request: &mut Request<'_>, head: &RequestHead) -> Result<(), Box<Reply>> {
    let Some(cors) = request.cors() else {
        return Ok(());
    };
    let Some(origin) = head.headers.text(Known::Origin) else {
        return Ok(());
    };
    let allowed = cors.allow_origins.iter().any(|test| test.matches(origin));
    if allowed {
        request.origin = Some(origin.to_owned());
    }
    let preflight =
        head.method() == Method::Options && head.headers.has(Known::AccessControlRequestMethod);
    if !preflight || (!allowed && cors.forward_unmatched_preflights) {
        return Ok(());
    }
    if !allowed {
        return Ok(());
    }
    let mut reply = Reply::new(Reason::PreflightAnswered).decided_by(request.resource());
    reply.body = Cow::Borrowed(b"");
    let mut say = |name, value: &str| {
        if !value.is_empty() {
            reply.headers.push((name, value.to_owned()));
        }
    };
    say("access-control-allow-origin", origin);
    say(
        "access-control-allow-credentials",
        if cors.allow_credentials { "true" } else { "" },
    );
    say("access-control-allow-methods", &cors.allow_methods);
    say("access-control-allow-headers", &cors.allow_headers);
    say("access-control-max-age", &cors.max_age);
    Err(reply)
}

/// Marks the response to an allowed origin.
pub fn mark(cors: &Cors, origin: &str, response: &mut ResponseHead) {
    let headers = &mut response.headers;
    headers.set_named("access-control-allow-origin", origin);
    if cors.allow_credentials {
        headers.set_named("access-control-allow-credentials", "true");
    }
    if !cors.expose_headers.is_empty() {
        headers.set_named("access-control-expose-headers", &cors.expose_headers);
    }
}
