//! The data plane in this process, on loopback, from a bootstrap to bytes.

mod breakers;
mod detection;
mod drain;
mod floods;
mod http2;
mod isolation;
mod kit;
mod mirror;
mod observing;
mod reasons;
mod replay;
mod retry;
mod routing;
mod serving;
mod settings;
mod sharing;
mod strict;
mod trailers;
