//! The only crate that knows a protobuf: Envoy v3, ADS, SDS and the certificate API.
