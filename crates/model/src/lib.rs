//! What the mesh is told (*Intent*), what a proxy runs (*Snapshot*), and the pure semantics of both.
//!
//! Nothing here awaits, logs, opens a socket, reads a clock or the environment, or names a protobuf type.

pub mod authz;
pub mod defaults;
pub mod hash;
pub mod protocol;
pub mod reason;
pub mod request;
pub mod route;
pub mod seam;
pub mod snapshot;
pub mod spiffe;
pub mod split;
