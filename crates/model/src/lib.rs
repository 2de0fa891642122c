//! What the mesh is told (*Intent*), what a proxy runs (*Snapshot*), and the pure semantics of both.
//!
//! Nothing here awaits, logs, opens a socket, reads a clock or the environment, or names a protobuf type.

pub mod analyze;
pub mod authz;
pub mod defaults;
pub mod diagnostic;
pub mod discovery;
pub mod format;
pub mod grpc;
pub mod hash;
pub mod intent;
pub mod normalize;
pub mod protocol;
pub mod reason;
pub mod request;
pub mod route;
pub mod schema;
pub mod seam;
pub mod snapshot;
pub mod spiffe;
pub mod split;
pub mod subset;
pub mod validate;
pub mod yaml;
