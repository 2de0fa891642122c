//! A reason in → the response the proxy itself gives: Envoy's status, body and headers, plus `x-ripstop-reason`.

use std::borrow::Cow;

use ripstop_model::reason::Reason;
use ripstop_model::snapshot::Resource;

use crate::error::Error;
use crate::headers::Known;
use crate::http1::Framing;
use crate::limit::Limit;
use crate::message::ResponseHead;
use crate::peer;

/// A response of the proxy's own.
#[derive(Debug, Clone)]
pub struct Reply {
    pub reason: Reason,
    pub status: u16,
    pub body: Cow<'static, [u8]>,
    /// Added as they are.
    pub headers: Vec<(&'static str, String)>,
    /// For gRPC callers; `None`: by the reason.
    pub grpc: Option<u32>,
    /// The resource that decided.
    pub resource: Option<Resource>,
    /// What went wrong below, for the log.
    pub cause: Option<String>,
}

impl Reply {
    /// Boxed: it is the error of most stages, and hardly ever happens.
    pub fn new(reason: Reason) -> Box<Reply> {
        Box::new(Reply {
            reason,
            status: reason.status(),
            body: Cow::Borrowed(text(reason).as_bytes()),
            headers: Vec::new(),
            grpc: None,
            resource: None,
            cause: None,
        })
    }

    pub fn decided_by(mut self: Box<Self>, resource: Option<&Resource>) -> Box<Reply> {
        self.resource = resource.cloned();
        self
    }

    /// Says which limit it was, after what Envoy says: whoever reads it knows what to change.
    pub(crate) fn for_limit(mut self: Box<Self>, limit: Option<Limit>) -> Box<Reply> {
        if let Some(limit) = limit {
            let said = String::from_utf8_lossy(&self.body);
            self.body = Cow::Owned(format!("{said} (limit: {limit})").into_bytes());
        }
        self
    }

    /// The answer to a failed attempt. Status 0 means that no response can be given any more.
    pub fn of_error(error: &Error) -> Box<Reply> {
        let mut reply = Reply::new(error.kind);
        if matches!(
            error.kind,
            Reason::CircuitOpenConnections
                | Reason::CircuitOpenPending
                | Reason::CircuitOpenRequests
        ) {
            reply
                .headers
                .push(("x-envoy-overloaded", "true".to_owned()));
        }
        if let Some(source) = &error.source {
            reply.cause = Some(source.to_string());
        }
        reply
    }

    /// Fills in the head; what remains is to send the body. gRPC callers are answered in their own way: status 200 and
    /// the code in a header, as Envoy does.
    pub fn head(&self, grpc: bool, head: &mut ResponseHead) -> (Framing, &[u8]) {
        head.clear();
        head.status = self.status;
        if grpc {
            head.status = 200;
            head.headers.append(Known::ContentType, "application/grpc");
            let code = self.grpc.unwrap_or_else(|| code_of(self));
            head.headers
                .append(Known::GrpcStatus, itoa::Buffer::new().format(code));
            if !self.body.is_empty() {
                head.headers
                    .append(Known::GrpcMessage, percent_encoded(&self.body));
            }
        } else if !self.body.is_empty() {
            head.headers.append(
                Known::ContentLength,
                itoa::Buffer::new().format(self.body.len()),
            );
            head.headers.append(Known::ContentType, "text/plain");
        }
        for (name, value) in &self.headers {
            head.headers.append_named(name, value);
        }
        head.headers
            .append_named(peer::REASON, self.reason.as_str());
        match grpc {
            true => (Framing::None, &[]),
            false => (Framing::Length(self.body.len() as u64), &self.body),
        }
    }
}

/// A reason answers with its own code; a status the user chose is translated (gRPC's http-grpc-status-mapping).
fn code_of(reply: &Reply) -> u32 {
    let configured = matches!(reply.reason, Reason::DirectResponse | Reason::Redirected);
    if reply.status == reply.reason.status() && !configured {
        return reply.reason.grpc();
    }
    match reply.status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// `grpc-message` is percent-encoded (gRPC over HTTP/2, "Responses").
fn percent_encoded(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Envoy's body for each reason; clients and dashboards know these texts.
fn text(reason: Reason) -> &'static str {
    match reason {
        Reason::BadRequest | Reason::BadAuthority => "Bad Request",
        Reason::RequestHeadTooLarge | Reason::TooManyRequestHeaders => {
            "Request Header Fields Too Large"
        }
        Reason::UnsupportedVersion => "Upgrade Required",
        Reason::BadPath | Reason::MissingHost => "",
        Reason::AuthzDenied | Reason::AuthzNotAllowed => "RBAC: access denied",
        Reason::NoHealthyEndpoint | Reason::NoEndpoint => "no healthy upstream",
        Reason::UpstreamTimeout | Reason::PerTryTimeout | Reason::PerTryIdleTimeout => {
            "upstream request timeout"
        }
        Reason::RequestHeadTimeout | Reason::RequestTimeout => "request timeout",
        Reason::StreamIdle | Reason::RequestIdle => "stream timeout",
        Reason::MaxStreamDuration => "downstream duration timeout",
        Reason::FaultAbort => "fault filter abort",
        Reason::ConnectFailure => {
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        }
        Reason::ConnectTimeout => {
            "upstream connect error or disconnect/reset before headers. reset reason: connection timeout"
        }
        Reason::TlsFailure | Reason::TlsUntrusted => {
            "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
        }
        Reason::UpstreamReset => {
            "upstream connect error or disconnect/reset before headers. reset reason: remote reset"
        }
        Reason::UpstreamClosed
        | Reason::UpstreamClosedReused
        | Reason::UpstreamClosedMidResponse => {
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
        }
        Reason::UpstreamRefusedStream => {
            "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset"
        }
        Reason::UpstreamProtocol | Reason::UpstreamHeadTooLarge => {
            "upstream connect error or disconnect/reset before headers. reset reason: protocol error"
        }
        Reason::CircuitOpenConnections
        | Reason::CircuitOpenPending
        | Reason::CircuitOpenRequests => {
            "upstream connect error or disconnect/reset before headers. reset reason: overflow"
        }
        _ => "",
    }
}
