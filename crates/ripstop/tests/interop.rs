//! Programs of other people's libraries on both ends: the gRPC interoperability test over HTTP/2, and WebSocket messages of
//! every kind, each with a proxy between and with a pair of sidecars between. What passes with Envoy between passes with
//! ripstop between.

#[path = "interop/between.rs"]
mod between;
#[path = "interop/grpc.rs"]
mod grpc;
#[path = "interop/websocket.rs"]
mod websocket;
