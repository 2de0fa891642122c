//! CORS: preflights answered here, `access-control-*` on the responses to allowed origins (Fetch standard, section 3.3).

use std::borrow::Cow;

use ripstop_model::reason::Reason;
use ripstop_model::snapshot::route::Cors;

use crate::headers::Known;
use crate::http::Request;
use crate::message::{Method, RequestHead, ResponseHead};
use crate::reply::Reply;

/// What applies to one request: each property by the most specific level that has it.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'v> {
    levels: [Option<&'v Cors>; 2],
}

impl<'v> Settings<'v> {
    pub fn new(route: Option<&'v Cors>, host: Option<&'v Cors>) -> Option<Settings<'v>> {
        let levels = [route, host];
        levels
            .iter()
            .any(Option::is_some)
            .then_some(Settings { levels })
    }

    fn first<T>(self, property: impl Fn(&'v Cors) -> Option<T>) -> Option<T> {
        self.levels.into_iter().flatten().find_map(property)
    }

    fn text(self, property: impl Fn(&'v Cors) -> &'v str) -> &'v str {
        self.first(|cors| Some(property(cors)).filter(|text| !text.is_empty()))
            .unwrap_or_default()
    }

    fn allows(self, origin: &str) -> bool {
        self.first(|cors| Some(&cors.allow_origins).filter(|list| !list.is_empty()))
            .is_some_and(|list| list.iter().any(|test| test.matches(origin)))
    }

    fn credentials(self) -> bool {
        self.first(|cors| cors.allow_credentials).unwrap_or(false)
    }

    /// Marks the response to an allowed origin.
    pub fn mark(self, origin: &str, response: &mut ResponseHead) {
        let headers = &mut response.headers;
        headers.set_named("access-control-allow-origin", origin);
        if self.credentials() {
            headers.set_named("access-control-allow-credentials", "true");
        }
        let expose = self.text(|cors| &cors.expose_headers);
        if !expose.is_empty() {
            headers.set_named("access-control-expose-headers", expose);
        }
    }
}

/// Answers a preflight from an allowed origin, and from others where they are not to reach the application: then
/// without the header that a browser looks for. Everything else goes on.
pub fn answer(request: &mut Request<'_>, head: &RequestHead) -> Result<(), Box<Reply>> {
    let Some(cors) = request.cors() else {
        return Ok(());
    };
    let Some(origin) = head.headers.text(Known::Origin) else {
        return Ok(());
    };
    let allowed = cors.allows(origin);
    if allowed {
        request.origin = Some(origin.to_owned());
    }
    let preflight =
        head.method() == Method::Options && head.headers.has(Known::AccessControlRequestMethod);
    let forwards = cors
        .first(|cors| cors.forward_unmatched_preflights)
        .unwrap_or(true);
    if !preflight || (!allowed && forwards) {
        return Ok(());
    }
    let mut reply = Reply::new(Reason::PreflightAnswered).decided_by(request.resource());
    reply.body = Cow::Borrowed(b"");
    let mut say = |name, value: &str| {
        if !value.is_empty() {
            reply.headers.push((name, value.to_owned()));
        }
    };
    say(
        "access-control-allow-origin",
        if allowed { origin } else { "" },
    );
    say(
        "access-control-allow-credentials",
        if cors.credentials() { "true" } else { "" },
    );
    say(
        "access-control-allow-methods",
        cors.text(|cors| &cors.allow_methods),
    );
    say(
        "access-control-allow-headers",
        cors.text(|cors| &cors.allow_headers),
    );
    if allowed {
        let expose = cors.text(|cors| &cors.expose_headers);
        say("access-control-expose-headers", expose);
    }
    say("access-control-max-age", cors.text(|cors| &cors.max_age));
    Err(reply)
}
