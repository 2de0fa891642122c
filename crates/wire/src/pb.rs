//! Short names for the generated Envoy packages, and the few messages that `envoy-types` does not carry.

pub(crate) use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
pub(crate) use envoy_types::pb::envoy::config::bootstrap::v3 as bootstrap;
pub(crate) use envoy_types::pb::envoy::config::cluster::v3 as cluster;
pub(crate) use envoy_types::pb::envoy::config::core::v3 as core;
pub(crate) use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
pub(crate) use envoy_types::pb::envoy::config::listener::v3 as listener;
pub(crate) use envoy_types::pb::envoy::config::overload::v3 as overload;
pub(crate) use envoy_types::pb::envoy::config::rbac::v3 as rbac;
pub(crate) use envoy_types::pb::envoy::config::route::v3 as route;
pub(crate) use envoy_types::pb::envoy::config::trace::v3 as trace;
pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::file::v3 as log_file;
pub(crate) use envoy_types::pb::envoy::extensions::access_loggers::stream::v3 as log_stream;
pub(crate) use envoy_types::pb::envoy::extensions::clusters::common::dns::v3 as dns_common;
pub(crate) use envoy_types::pb::envoy::extensions::clusters::dns::v3 as dns_cluster;
pub(crate) use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as fault_common;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as cors;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::grpc_stats::v3 as grpc_stats;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
pub(crate) use envoy_types::pb::envoy::extensions::filters::http::router::v3 as router;
pub(crate) use envoy_types::pb::envoy::extensions::filters::listener as listener_filters;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
pub(crate) use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub(crate) use envoy_types::pb::envoy::extensions::http::header_formatters::preserve_case::v3 as preserve_case;
pub(crate) use envoy_types::pb::envoy::extensions::load_balancing_policies as lb;
pub(crate) use envoy_types::pb::envoy::extensions::path::r#match::uri_template::v3 as uri_template;
pub(crate) use envoy_types::pb::envoy::extensions::rbac::principals::mtls_authenticated::v3 as mtls_authenticated;
pub(crate) use envoy_types::pb::envoy::extensions::request_id::uuid::v3 as request_id;
pub(crate) use envoy_types::pb::envoy::extensions::resource_monitors::downstream_connections::v3 as downstream_connections;
pub(crate) use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3 as previous_hosts;
pub(crate) use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3 as previous_priorities;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3 as raw_buffer;
pub(crate) use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub(crate) use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream_http;
pub(crate) use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub(crate) use envoy_types::pb::envoy::r#type::v3 as kind;
pub(crate) use envoy_types::pb::google::protobuf as google;

/// Type URLs of messages that Envoy's own API does not have, so that no generated type knows them.
pub(crate) mod foreign {
    pub(crate) const TYPED_STRUCTS: [&str; 2] = [
        "type.googleapis.com/xds.type.v3.TypedStruct",
        "type.googleapis.com/udpa.type.v1.TypedStruct",
    ];
    pub(crate) const PEER_METADATA: &str = "type.googleapis.com/io.istio.http.peer_metadata.Config";
    pub(crate) const METADATA_EXCHANGE: &str =
        "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";
    pub(crate) const ISTIO_STATS: &str = "type.googleapis.com/stats.PluginConfig";
    pub(crate) const ISTIO_ALPN: &str =
        "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig";
}

/// `xds.type.v3.TypedStruct`: an extension's configuration as JSON, for those whose message is not linked.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TypedStruct {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value: Option<google::Struct>,
}
