//! Why a request or a connection could not go on: one struct for the whole data path, its meaning in one table
//! ([`ripstop_model::reason`]).

use std::error::Error as StdError;
use std::fmt;

use ripstop_model::reason::{Reason, Side};

/// Whether trying the same request again could do it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The upstream provably processed nothing: safe for any method.
    Unprocessed,
    /// The upstream may have seen it: safe only for idempotent methods, or if the user says so.
    Unknown,
    /// Not worth trying: the same would happen again, or a response is already under way.
    Never,
}

/// What happened, whose fault it was (by its kind), and whether a retry is safe.
#[derive(Debug)]
pub struct Error {
    pub kind: Reason,
    pub retry: Retry,
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub fn new(kind: Reason, retry: Retry) -> Error {
        Error {
            kind,
            retry,
            source: None,
        }
    }

    /// An error that ends the request whatever the retry policy says.
    pub fn terminal(kind: Reason) -> Error {
        Error::new(kind, Retry::Never)
    }

    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    pub fn side(&self) -> Side {
        self.kind.side()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_ref()
            .map(|source| &**source as &(dyn StdError + 'static))
    }
}
