//! A request that the codec refused, as the spine sees requests: it is recorded, and nothing can be said to it.

use std::task::{Context, Poll};

use crate::error::Error;
use crate::exchange::{Body, Downstream, Part};
use crate::http1::{Admitted, Framing};
use crate::message::{RequestHead, ResponseHead};

/// A request that was reset before anybody saw it: all that is left of it is its record.
pub(super) struct Refused(pub(super) RequestHead);

impl Body for Refused {
    fn poll_receive(
        &mut self,
        _: &mut Context<'_>,
        _: &mut dyn FnMut(Part<'_>),
    ) -> Poll<Result<(), Error>> {
        Poll::Pending
    }

    fn push(&mut self, _: Part<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn backlog(&self) -> usize {
        0
    }
}

impl Downstream for Refused {
    fn request(&self) -> &RequestHead {
        &self.0
    }

    fn request_mut(&mut self) -> &mut RequestHead {
        &mut self.0
    }

    fn admitted(&self) -> Admitted {
        Admitted::default()
    }

    fn is_request_complete(&self) -> bool {
        true
    }

    fn room(&self) -> usize {
        0
    }

    fn inform(&mut self, _: &ResponseHead) {}

    fn respond(&mut self, _: &ResponseHead, _: Framing) {}

    fn upgrade(&mut self, _: &ResponseHead) {}

    fn abort(&mut self) {}
}
