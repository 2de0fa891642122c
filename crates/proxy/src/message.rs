//! The head of a request and of a response as the whole proxy sees them, whichever HTTP version they came by.
//!
//! All text of a head lives in its [`Headers`]' buffer; method, target, path and authority are spans of it. A head
//! from the wire becomes meaningful through [`crate::http1::admit`] (HTTP/1) or [`RequestHead::take_over`] (HTTP/2),
//! which check it; [`RequestHead::normalize`] then gives it the one form that policies and routes match.

use std::borrow::Cow;

use ripstop_model::normalize::{self, PathError};
use ripstop_model::request::RequestView;
use ripstop_model::snapshot::http::PathOptions;

use crate::headers::{Headers, Known, Span};

/// The version a message came by; what is written is always the writer's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
}

impl Version {
    /// As access logs and `istio_requests_total` spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// Methods the proxy treats apart; `Other` is any other token, in [`RequestHead::method_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Connect,
    Trace,
    Other,
}

impl Method {
    /// Methods are case-sensitive (RFC 9110 section 9.1).
    #[inline]
    pub fn of(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }

    /// Whether a request without a body says so: all but those that hardly ever have one.
    pub fn may_have_body(self) -> bool {
        !matches!(
            self,
            Method::Get | Method::Head | Method::Delete | Method::Connect | Method::Trace
        )
    }

    /// RFC 9110 section 9.2.2, less TRACE, which is never forwarded.
    pub fn is_idempotent(self) -> bool {
        matches!(
            self,
            Method::Get | Method::Head | Method::Put | Method::Delete | Method::Options
        )
    }
}

/// The four forms of a request target (RFC 9112 section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetForm {
    #[default]
    Origin,
    Absolute,
    /// `CONNECT host:port`
    Authority,
    /// `OPTIONS *`
    Asterisk,
}

/// A request without its body.
#[derive(Debug, Clone, Default)]
pub struct RequestHead {
    pub headers: Headers,
    pub version: Version,
    pub scheme: Scheme,
    pub(crate) form: TargetForm,
    pub(crate) method: Method,
    pub(crate) method_span: Span,
    /// As received; admission turns it into path and query.
    pub(crate) target: Span,
    pub(crate) path: Span,
    /// Without the `?`.
    pub(crate) query: Option<Span>,
    /// As the client spelt it: what is forwarded.
    pub(crate) authority_sent: Span,
    /// Normalised: what policies and routes see.
    pub(crate) authority: Span,
}

impl RequestHead {
    /// Forgets the request, keeps the memory.
    pub fn clear(&mut self) {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = RequestHead {
            headers,
            ..RequestHead::default()
        };
    }

    /// A request the proxy makes itself (a mirror, a probe). `path` may carry a query.
    pub fn build(method: &str, scheme: Scheme, authority: &str, path: &str) -> RequestHead {
        let mut head = RequestHead {
            scheme,
            ..RequestHead::default()
        };
        head.set_method(method);
        head.set_authority(authority);
        head.set_path_and_query(path);
        head
    }

    #[inline]
    pub(crate) fn str(&self, span: Span) -> &str {
        std::str::from_utf8(span.of(self.headers.buffer())).unwrap_or_default()
    }

    pub fn method(&self) -> Method {
        self.method
    }

    pub fn method_str(&self) -> &str {
        self.str(self.method_span)
    }

    pub fn set_method(&mut self, method: &str) {
        self.method = Method::of(method.as_bytes());
        self.method_span = self.headers.intern(method.as_bytes());
    }

    pub fn form(&self) -> TargetForm {
        self.form
    }

    /// The path without query, normalised once [`RequestHead::normalize`] has run; `*` for the asterisk form, empty for CONNECT.
    pub fn path(&self) -> &str {
        self.str(self.path)
    }

    /// The query without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.query.map(|query| self.str(query))
    }

    /// Path and query as they will be forwarded.
    pub fn path_and_query(&self) -> Cow<'_, str> {
        match self.query {
            None => self.path().into(),
            // They usually still stand next to each other.
            Some(query) if self.path.end() + 1 == query.start() => {
                self.str(Span::new(self.path.start(), query.end())).into()
            }
            Some(query) => format!("{}?{}", self.path(), self.str(query)).into(),
        }
    }

    /// Another path for the same query.
    pub fn set_path(&mut self, path: &str) {
        self.path = self.headers.intern(&target_bytes(path));
    }

    /// Another path and query.
    pub fn set_path_and_query(&mut self, path: &str) {
        let bytes = target_bytes(path);
        let whole = self.headers.intern(&bytes);
        self.split_target(whole);
    }

    /// Takes a span in origin form apart into path and query.
    pub(crate) fn split_target(&mut self, whole: Span) {
        let text = whole.of(self.headers.buffer());
        match memchr::memchr(b'?', text) {
            Some(at) => {
                let middle = whole.start() + at;
                self.path = Span::new(whole.start(), middle);
                self.query = Some(Span::new(middle + 1, whole.end()));
            }
            None => {
                self.path = whole;
                self.query = None;
            }
        }
    }

    /// Host and port, normalised; empty if the request (HTTP/1.0) named none.
    pub fn authority(&self) -> &str {
        self.str(self.authority)
    }

    /// Host and port in the client's spelling, as they are forwarded.
    pub fn authority_sent(&self) -> &str {
        self.str(self.authority_sent)
    }

    /// Gives the request another authority; a `Host` field that is there follows.
    pub fn set_authority(&mut self, authority: &str) {
        if self.headers.has(Known::Host) {
            self.headers.set(Known::Host, authority);
        }
        self.authority_sent = self.headers.intern(&target_bytes(authority));
        let normal = normalize::authority(authority, self.scheme.default_port());
        self.authority = match normal {
            Ok(normal) => self.headers.intern(normal.as_bytes()),
            Err(_) => self.authority_sent,
        };
    }

    /// Brings the path into the form policies and routes match and upstreams receive. `Ok(Some(path))`: the options
    /// ask that the client be redirected to that path (and the same query).
    pub fn normalize(&mut self, options: &PathOptions) -> Result<Option<String>, PathError> {
        if matches!(self.form, TargetForm::Authority | TargetForm::Asterisk) {
            return Ok(None);
        }
        let fresh = match normalize::path(self.path(), options)? {
            normalize::Path::Forward(Cow::Borrowed(_)) => return Ok(None),
            normalize::Path::Forward(Cow::Owned(path)) => path,
            normalize::Path::Redirect(path) => return Ok(Some(path)),
        };
        self.path = self.headers.intern(fresh.as_bytes());
        Ok(None)
    }

    /// What HTTP/2 does not carry, or carries elsewhere.
    const EXCEPT: u64 = Known::HOP_BY_HOP & !Known::Te.bit() | Known::Host.bit();

    /// Writes an HTTP/2 request.
    pub(crate) fn write_h2(&self, writer: &mut ripstop_h2::FieldWriter<'_>) {
        self.write_pseudo(writer, &uri_bytes(&self.path_and_query()));
        self.headers.write_fields(writer, RequestHead::EXCEPT);
    }

    /// Writes the handshake of a WebSocket as extended CONNECT (RFC 8441 section 5).
    pub(crate) fn write_handshake(&self, writer: &mut ripstop_h2::FieldWriter<'_>) {
        writer.field(b":method", b"CONNECT");
        writer.field(b":protocol", b"websocket");
        writer.field(b":scheme", self.scheme.as_str().as_bytes());
        writer.field(b":authority", self.authority_sent().as_bytes());
        writer.field(b":path", uri_bytes(&self.path_and_query()).as_bytes());
        self.headers.write_fields(writer, RequestHead::EXCEPT);
    }

    /// The pseudo-header fields, which come first.
    pub(crate) fn write_pseudo(&self, writer: &mut ripstop_h2::FieldWriter<'_>, target: &str) {
        writer.field(b":method", self.method_str().as_bytes());
        if self.form != TargetForm::Authority {
            writer.field(b":scheme", self.scheme.as_str().as_bytes());
        }
        if !self.authority_sent.is_empty() {
            writer.field(b":authority", self.authority_sent().as_bytes());
        }
        if self.form != TargetForm::Authority {
            writer.field(b":path", target.as_bytes());
        }
    }

    /// Takes over an HTTP/2 request that the codec has checked; [`crate::http1::admit_h2`] must follow.
    pub(crate) fn take_over(&mut self, head: &ripstop_h2::Head) {
        self.version = Version::Http2;
        self.headers.take_over(head);
        self.method = Method::of(head.method());
        self.method_span = self.headers.intern(head.method());
        if head.scheme().eq_ignore_ascii_case(b"https") {
            self.scheme = Scheme::Https;
        }
        if let Some(authority) = head.authority() {
            self.authority_sent = self.headers.intern(authority);
        }
        if self.method == Method::Connect && head.scheme().is_empty() {
            self.form = TargetForm::Authority;
            return;
        }
        // Told from a header of that name by what `admit_h2` finds beside it.
        if let Some(protocol) = head.protocol() {
            self.headers.append(Known::Upgrade, protocol);
        }
        if head.path() == b"*" {
            self.form = TargetForm::Asterisk;
        }
        let path = self.headers.intern(head.path());
        self.split_target(path);
    }
}

/// A target that HTTP/1 carries as it is and that many HTTP/2 servers refuse: RFC 3986 wants these bytes percent-encoded.
fn uri_bytes(target: &str) -> Cow<'_, str> {
    if !target.contains(['<', '>', '`']) {
        return Cow::Borrowed(target);
    }
    let target = target.replace('<', "%3C").replace('>', "%3E");
    Cow::Owned(target.replace('`', "%60"))
}

/// Bytes fit for a request line: whatever could end the target early is percent-encoded.
fn target_bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if crate::headers::scan::is_target_byte(byte) {
            out.push(byte);
        } else {
            let hex = |nibble: u8| {
                if nibble < 10 {
                    b'0' + nibble
                } else {
                    b'A' + nibble - 10
                }
            };
            out.extend_from_slice(&[b'%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
    out
}

/// A response without its body.
#[derive(Debug, Clone, Default)]
pub struct ResponseHead {
    pub headers: Headers,
    pub version: Version,
    pub status: u16,
    pub(crate) reason: Span,
}

impl ResponseHead {
    pub fn build(status: u16) -> ResponseHead {
        ResponseHead {
            status,
            ..ResponseHead::default()
        }
    }

    /// Forgets the response, keeps the memory.
    pub fn clear(&mut self) {
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        *self = ResponseHead {
            headers,
            ..ResponseHead::default()
        };
    }

    /// The reason phrase as received; empty if there was none.
    pub fn reason(&self) -> &[u8] {
        self.reason.of(self.headers.buffer())
    }

    /// Writes an HTTP/2 response.
    pub(crate) fn write_h2(&self, writer: &mut ripstop_h2::FieldWriter<'_>) {
        self.write_pseudo(writer);
        self.headers.write_fields(writer, Known::HOP_BY_HOP);
    }

    pub(crate) fn write_pseudo(&self, writer: &mut ripstop_h2::FieldWriter<'_>) {
        let mut digits = itoa::Buffer::new();
        writer.field(b":status", digits.format(self.status).as_bytes());
    }

    /// Takes over an HTTP/2 response that the codec has checked.
    pub(crate) fn take_over(&mut self, head: &ripstop_h2::Head) {
        self.version = Version::Http2;
        self.status = head.status();
        self.headers.take_over(head);
    }
}

/// Routing, hashing and authorization see a head through the model's eyes.
impl RequestView for RequestHead {
    fn method(&self) -> &str {
        self.method_str()
    }

    fn path(&self) -> &str {
        RequestHead::path(self)
    }

    fn query(&self) -> Option<&str> {
        RequestHead::query(self)
    }

    fn authority(&self) -> &str {
        RequestHead::authority(self)
    }

    fn scheme(&self) -> &str {
        self.scheme.as_str()
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.headers.joined(name)
    }

    fn any_value(&self, name: &str, test: &dyn Fn(&str) -> bool) -> Option<bool> {
        self.headers.any_named(name, test)
    }
}
