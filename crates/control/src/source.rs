//! Where configuration comes from → a stream of listings. Adding a source is a file here and a row in [`SOURCES`].

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

mod file;

/// What a source has to say; always everything it holds, so a missed event costs nothing once the next one comes.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// All of its documents: file name and text, in a stable order.
    Listing {
        source: Arc<str>,
        files: Vec<(String, String)>,
        /// What could not be read, one line each; the rest counts.
        problems: Vec<String>,
    },
    /// It cannot be read at all. What it said last stays in force.
    Failed { source: Arc<str>, error: String },
}

impl Change {
    pub fn source(&self) -> &Arc<str> {
        match self {
            Change::Listing { source, .. } | Change::Failed { source, .. } => source,
        }
    }
}

/// A source that is being watched.
pub trait Source: Send + 'static {
    /// Sends a first listing at once, and another after every change, until the receiver is gone.
    fn watch(self: Box<Self>, changes: mpsc::Sender<Change>) -> JoinHandle<()>;
}

type Open = fn(&str) -> Result<Box<dyn Source>, SourceError>;

/// URL scheme → how it is opened. A URL without a scheme is a path.
pub const SOURCES: &[(&str, Open)] = &[("file", file::open)];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("`{url}`: there is no source for {scheme}://; the schemes are {known}")]
    Scheme {
        url: String,
        scheme: String,
        known: String,
    },
    #[error("the configuration source is empty: give a file or a folder")]
    Empty,
}

pub fn open(url: &str) -> Result<Box<dyn Source>, SourceError> {
    if url.is_empty() {
        return Err(SourceError::Empty);
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("file", url));
    match SOURCES.iter().find(|(known, _)| *known == scheme) {
        Some((_, open)) => open(rest),
        None => Err(SourceError::Scheme {
            url: url.to_owned(),
            scheme: scheme.to_owned(),
            known: SOURCES
                .iter()
                .map(|(known, _)| *known)
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes() {
        assert!(open("./config").is_ok());
        assert!(open("file:///etc/mesh").is_ok());
        let error = open("k8s://x").err().unwrap().to_string();
        assert!(
            error.contains("k8s://") && error.contains("file"),
            "{error}"
        );
    }
}
