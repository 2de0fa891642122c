//! Where the dashboard looks.

use crate::picture::Look;

/// Whoever composes the dashboard knows the control plane and the metrics; the dashboard knows neither.
pub trait Source: Send + 'static {
    /// The mesh as it is now. Called every other second while somebody watches, else not at all; bounded in time by the source.
    fn look(&mut self) -> impl Future<Output = Look> + Send;
}
