//! TLS, HTTP/2, opaque TCP and protocol detection of the data plane, in this process, on loopback.

mod http2;
mod kit;
