//! SPIFFE names, keys, the CA and its rotation, rustls configurations.
//!
//! Nothing here does I/O or reads a clock: certificates, tokens and schedules take the time as an argument, and storing
//! what must survive a restart is the caller's.
//!
//! ```text
//! key.rs     a workload's key and its CSR; the certified pair
//! ca.rs      CSR + attested identity → certificate chain; rotation of the intermediate
//! bundle.rs  roots per trust domain; Trust swaps them under running configurations
//! verify.rs  a peer's chain → accepted, or one Rejection
//! tls.rs     rustls configurations for the mesh, for gateways and for the outside
//! peer.rs    a verified certificate → what policy, logs and XFCC need
//! renew.rs   when to renew, how to back off, when to complain
//! token.rs   join tokens and one-use credentials
//! ```

pub mod alpn;
pub mod bundle;
pub mod ca;
pub mod key;
pub mod peer;
pub mod renew;
pub mod tls;
pub mod token;
pub mod verify;
mod x509;

pub use bundle::{Bundle, Fingerprint, Trust};
pub use ca::Authority;
pub use key::{Certified, Key};
pub use peer::Peer;
pub use tls::Slot;
pub use verify::Rejection;
