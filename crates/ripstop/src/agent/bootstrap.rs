//! A registered workload and its agent's socket → the bootstrap with which a stock Envoy becomes its sidecar.
//!
//! The control plane is reached with the workload's own identity: Envoy takes key, certificate and roots from the agent (the
//! cluster `sds-grpc`, to which everything that the control plane sends refers as well) and accepts nobody but the control
//! plane's SPIFFE identity on `xds-grpc`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ripstop_control::api::message::Registered;
use serde_json::{Value, json};

const SDS: &str = "sds-grpc";
const XDS: &str = "xds-grpc";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    Delta,
    Sotw,
}

pub(crate) struct Bootstrap<'a> {
    pub(crate) registered: &'a Registered,
    /// `HOST:PORT` of xDS over TLS.
    pub(crate) control: &'a str,
    /// The agent's.
    pub(crate) socket: &'a Path,
    pub(crate) admin: SocketAddr,
    pub(crate) protocol: Protocol,
}

impl Bootstrap<'_> {
    /// JSON, which Envoy reads from a file with the ending `.json` or `.yaml`.
    pub(crate) fn to_text(&self) -> String {
        let ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
        let bootstrap = json!({
            "node": self.node(),
            "admin": {"address": socket_address(&self.admin.ip().to_string(), self.admin.port())},
            "dynamic_resources": {
                "ads_config": grpc(XDS, match self.protocol {
                    Protocol::Delta => "DELTA_GRPC",
                    Protocol::Sotw => "GRPC",
                }),
                "lds_config": ads,
                "cds_config": ads,
            },
            "static_resources": {"clusters": [self.agent(), self.control_plane()]},
        });
        format!("{bootstrap:#}\n")
    }

    /// `INTERCEPTION_MODE`: nothing leads the application's connections to Envoy, so Envoy binds the addresses that they
    /// go to.
    fn node(&self) -> Value {
        let of = self.registered;
        let ips = of.addresses.visible().map(|ip| ip.to_string());
        let service = if of.service.is_empty() {
            &of.workload
        } else {
            &of.service
        };
        json!({
            "id": of.node,
            "cluster": format!("{service}.{}", of.namespace),
            "metadata": {
                "NAMESPACE": of.namespace,
                "SERVICE_ACCOUNT": of.service_account,
                "WORKLOAD_NAME": of.workload,
                "LABELS": of.labels,
                "INSTANCE_IPS": ips.join(","),
                "NAME": of.id,
                "INTERCEPTION_MODE": "NONE",
            },
        })
    }

    fn agent(&self) -> Value {
        let address = json!({"pipe": {"path": self.socket}});
        json!({
            "name": SDS,
            "type": "STATIC",
            "connect_timeout": "1s",
            "typed_extension_protocol_options": http2(),
            "load_assignment": one(SDS, address),
        })
    }

    fn control_plane(&self) -> Value {
        let (host, port) = self.control.rsplit_once(':').unwrap_or((self.control, ""));
        let host = host.trim_matches(['[', ']']);
        let port = port.parse().unwrap_or(15012);
        let kind = match host.parse::<IpAddr>() {
            Ok(_) => "STATIC",
            Err(_) => "STRICT_DNS",
        };
        let validation = json!({
            "default_validation_context": {"match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": self.registered.control_identity}}]},
            "validation_context_sds_secret_config": secret("ROOTCA"),
        });
        json!({
            "name": XDS,
            "type": kind,
            "connect_timeout": "1s",
            "typed_extension_protocol_options": http2(),
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {
                    // As a client Envoy stops at TLS 1.2 unless it is told otherwise.
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                    "alpn_protocols": ["h2"],
                    "tls_certificate_sds_secret_configs": [secret("default")],
                    "combined_validation_context": validation,
                },
            }},
            "load_assignment": one(XDS, socket_address(host, port)),
        })
    }
}

fn socket_address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

fn one(cluster: &str, address: Value) -> Value {
    json!({"cluster_name": cluster, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]})
}

/// Pings find out that the other end is gone without a goodbye.
fn http2() -> Value {
    json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {
            "connection_keepalive": {"interval": "30s", "timeout": "10s"}}},
    }})
}

fn grpc(cluster: &str, kind: &str) -> Value {
    json!({
        "api_type": kind,
        "transport_api_version": "V3",
        "set_node_on_first_message_only": true,
        "grpc_services": [{"envoy_grpc": {"cluster_name": cluster}}],
    })
}

fn secret(name: &str) -> Value {
    json!({"name": name, "sds_config": {
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
        "api_config_source": grpc(SDS, "GRPC"),
    }})
}
