//! What the spine sees of a request and its response, whichever HTTP version carries them.
//!
//! Both sides are polled by one task and neither waits for the other: bodies flow up and down at the same time, and a side
//! that is slow holds back only the one it gets its bytes from.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use ripstop_model::seam::Ends;

use crate::error::Error;
use crate::headers::Headers;
use crate::http1::{Accepted, Admitted, Framing, Upgrade};
use crate::message::{RequestHead, ResponseHead};

/// A piece of a body. Every body ends with `Trailers` or `End`.
#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    Data(&'a [u8]),
    Trailers(&'a Headers),
    End,
}

impl Part<'_> {
    pub fn is_end(&self) -> bool {
        !matches!(self, Part::Data(_))
    }

    pub fn len(&self) -> usize {
        match self {
            Part::Data(data) => data.len(),
            Part::Trailers(_) | Part::End => 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The body that comes from a peer and the body that goes to it.
pub trait Body {
    /// Reads what is there and hands it over piece by piece. After the end it stays pending, and fails if the peer goes
    /// away while something is still owed to it.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(Part<'_>),
    ) -> Poll<Result<(), Error>>;

    /// Queues a piece; written out by the next flush.
    fn push(&mut self, part: Part<'_>) -> Result<(), Error>;

    /// `Ready(Ok)` when nothing is queued any more.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>>;

    /// Bytes queued and not yet written.
    fn backlog(&self) -> usize;
}

/// The client's side of one exchange.
pub trait Downstream: Body {
    fn request(&self) -> &RequestHead;
    fn request_mut(&mut self) -> &mut RequestHead;
    /// How the request is framed and what it asks of the connection.
    fn admitted(&self) -> Admitted;
    /// Whether the whole request has arrived.
    fn is_request_complete(&self) -> bool;
    /// Queues an interim response (1xx); nothing where the client cannot take one.
    fn inform(&mut self, head: &ResponseHead);
    /// Queues the response's head. `framing` is how the body came; [`Framing::None`] ends the response with its head.
    fn respond(&mut self, head: &ResponseHead, framing: Framing);
    /// Queues the answer to an upgrade: both bodies are the raw bytes of the connection from here on.
    fn upgrade(&mut self, head: &ResponseHead);
    /// Nothing more can be said: the response broke off in the middle.
    fn abort(&mut self);
    /// So many bytes of a response should come at once: each may have to wait for the client.
    fn room(&self) -> usize;
}

/// The server's side of one attempt.
pub trait Upstream: Body {
    /// Queues the request's head. [`Framing::None`] ends the request with its head.
    fn send(&mut self, head: &RequestHead, framing: Framing, upgrade: Option<Upgrade>);
    /// The next response head, interim ones included. After one with `tunnel` both bodies are raw bytes.
    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        head: &mut ResponseHead,
    ) -> Poll<Result<Accepted, Error>>;
    /// After the head: the trailers, if no body comes before them. Nothing is taken. At once `None` of a protocol whose
    /// bodies have to be read to find out.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Option<Headers>>;
    /// What is read of the response from now on comes in pieces of no more than this.
    fn limit(&mut self, most: usize);
    /// Whether the connection served a request before this one.
    fn is_reused(&self) -> bool;
    /// Whether all of the request is with the kernel.
    fn is_request_sent(&self) -> bool;
    /// The address the connection comes from.
    fn local(&self) -> Option<SocketAddr>;
    /// The connection's ends as the server names them, and the bytes it has carried so far; `None` where it carries
    /// several requests at once.
    fn carried(&self) -> Option<(Ends, u64)>;
    /// The exchange is over: a connection that is clean serves another.
    fn finish(self);
}
