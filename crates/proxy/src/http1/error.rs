//! What is wrong with a message and whose message it is: the reason of the answer and a closed label follow from it.

use ripstop_model::normalize::{AuthorityError, PathError};
use ripstop_model::reason::Reason;

/// Who sent the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A request.
    Downstream,
    /// A response.
    Upstream,
}

/// A refused message. The connection it came by must be closed: bytes after it are never read as a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}: {problem}", match .peer { Peer::Downstream => "downstream request", Peer::Upstream => "upstream response" })]
pub struct Error {
    pub peer: Peer,
    pub problem: Problem,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Problem {
    #[error("the start line is not `METHOD target HTTP/1.x` or `HTTP/1.x status reason`")]
    StartLine,
    #[error("the HTTP version is not 1.0 or 1.1")]
    Version,
    #[error("the request target holds a byte that no URI has")]
    TargetByte,
    #[error("the request target is not in a form this method allows")]
    TargetForm,
    #[error("the status code is not from 100 to 599")]
    Status,
    #[error("a line ends with a bare LF; every line ends with CR LF")]
    BareLf,
    #[error("a CR is not followed by LF")]
    BareCr,
    #[error("a header line is continued on the next line (obs-fold)")]
    ObsFold,
    #[error("a header line has no colon")]
    NoColon,
    #[error("there is a space before the colon of a header")]
    SpaceBeforeColon,
    #[error("a header name is empty or not a token")]
    HeaderName,
    #[error("a control byte stands where none may")]
    ControlByte,
    #[error("the head is longer than the limit max_head_bytes = {limit}")]
    HeadTooLarge { limit: usize },
    #[error("there are more header lines than the limit max_headers = {limit}")]
    TooManyHeaders { limit: usize },
    #[error("the trailers are longer than the limit max_head_bytes = {limit}")]
    TrailersTooLarge { limit: usize },
    #[error("there is no Host header")]
    HostMissing,
    #[error("there is more than one Host header")]
    HostRepeated,
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("there is both Content-Length and Transfer-Encoding")]
    LengthAndCoding,
    #[error("Content-Length is repeated")]
    LengthRepeated,
    #[error("Content-Length is not a plain decimal number")]
    Length,
    #[error("the transfer coding is not a single, final `chunked`")]
    Coding,
    #[error("Transfer-Encoding in an HTTP/1.0 message")]
    CodingInHttp10,
    #[error("a body where this message cannot have one")]
    BodyForbidden,
    #[error("a chunk size is not plain hex of at most 16 digits")]
    ChunkSize,
    #[error("chunk extensions are longer than {limit} bytes")]
    ChunkExtensions { limit: usize },
    #[error("chunk data is not followed by CR LF")]
    ChunkEnd,
    #[error("the connection ended before the message did")]
    Truncated,
    #[error("the method TRACE is not served")]
    Trace,
    #[error("the method CONNECT is not enabled on this listener")]
    Connect,
    #[error("an expectation other than 100-continue")]
    Expectation,
    #[error("the status 101 answers no upgrade that was asked for")]
    UpgradeUnasked,
    #[error("a header that belongs to one HTTP/1 connection appears in HTTP/2")]
    ConnectionHeaderInHttp2,
}

impl Problem {
    /// The closed label of the exact problem, for logs and metrics; the peer sees only [`Error::reason`].
    pub fn label(self) -> &'static str {
        match self {
            Problem::StartLine => "http1_start_line",
            Problem::Version => "http1_version",
            Problem::TargetByte => "http1_target_byte",
            Problem::TargetForm => "target_form",
            Problem::Status => "http1_status",
            Problem::BareLf => "http1_bare_lf",
            Problem::BareCr => "http1_bare_cr",
            Problem::ObsFold => "http1_obs_fold",
            Problem::NoColon => "http1_no_colon",
            Problem::SpaceBeforeColon => "http1_space_before_colon",
            Problem::HeaderName => "header_name",
            Problem::ControlByte => "control_byte",
            Problem::HeadTooLarge { .. } => "head_too_large",
            Problem::TooManyHeaders { .. } => "too_many_headers",
            Problem::TrailersTooLarge { .. } => "trailers_too_large",
            Problem::HostMissing => "host_missing",
            Problem::HostRepeated => "host_repeated",
            Problem::Authority(_) => "host_malformed",
            Problem::Path(_) => "path_malformed",
            Problem::LengthAndCoding => "length_and_coding",
            Problem::LengthRepeated => "length_repeated",
            Problem::Length => "length_malformed",
            Problem::Coding => "transfer_coding",
            Problem::CodingInHttp10 => "transfer_coding_http10",
            Problem::BodyForbidden => "body_forbidden",
            Problem::ChunkSize => "chunk_size",
            Problem::ChunkExtensions { .. } => "chunk_extensions",
            Problem::ChunkEnd => "chunk_end",
            Problem::Truncated => "message_truncated",
            Problem::Trace => "method_trace",
            Problem::Connect => "method_connect",
            Problem::Expectation => "expectation",
            Problem::UpgradeUnasked => "upgrade_unasked",
            Problem::ConnectionHeaderInHttp2 => "connection_header_http2",
        }
    }
}

impl Error {
    pub(crate) fn downstream(problem: impl Into<Problem>) -> Error {
        Error {
            peer: Peer::Downstream,
            problem: problem.into(),
        }
    }

    pub(crate) fn upstream(problem: impl Into<Problem>) -> Error {
        Error {
            peer: Peer::Upstream,
            problem: problem.into(),
        }
    }

    /// The reason the answer and the log carry; it also says the status. A malformed response is the upstream's
    /// fault, whatever is wrong with it.
    pub fn reason(&self) -> Reason {
        match (self.peer, self.problem) {
            (Peer::Upstream, Problem::HeadTooLarge { .. } | Problem::TooManyHeaders { .. }) => {
                Reason::UpstreamHeadTooLarge
            }
            (Peer::Upstream, Problem::Truncated) => Reason::UpstreamClosedMidResponse,
            (Peer::Upstream, _) => Reason::UpstreamProtocol,
            (_, Problem::HeadTooLarge { .. } | Problem::TrailersTooLarge { .. }) => {
                Reason::RequestHeadTooLarge
            }
            (_, Problem::TooManyHeaders { .. }) => Reason::TooManyRequestHeaders,
            (_, Problem::Version) => Reason::UnsupportedVersion,
            (_, Problem::HostMissing) => Reason::MissingHost,
            (_, Problem::Authority(_) | Problem::HostRepeated) => Reason::BadAuthority,
            (_, Problem::Path(_)) => Reason::BadPath,
            (_, Problem::Trace) => Reason::MethodNotAllowed,
            (_, Problem::Connect) => Reason::ConnectNotAllowed,
            (_, Problem::Expectation) => Reason::ExpectationFailed,
            _ => Reason::BadRequest,
        }
    }
}
