//! `HttpConnectionManager` and its filters.

use ripstop_model::snapshot::fault::{Abort, Delay, Fault};
use ripstop_model::snapshot::http::{
    Codec, EscapedSlashes, ForwardClientCert, HttpFilter, HttpProxy, RouteSource, ServerHeader,
    StripPort, Tracing, Underscores, Xfcc,
};

use super::access_log::access_log;
use super::authz;
use super::cluster::{http2, preserve_case, route_source};
use super::route::route_config;
use super::value::{
    any, boolean, cidr, duration, fraction, header_match, limit, percent, uint, when,
};
use crate::pb::{core, cors, fault, fault_common, foreign, google, grpc_stats, hcm, router, trace};

pub(super) fn manager(h: &HttpProxy) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager as wire;
    let (transformation, name) = server_header(&h.server_header);
    hcm::HttpConnectionManager {
        codec_type: match h.codec {
            Codec::Auto => wire::CodecType::Auto,
            Codec::Http1 => wire::CodecType::Http1,
            Codec::Http2 => wire::CodecType::Http2,
        }
        .into(),
        stat_prefix: h.stat_prefix.clone(),
        route_specifier: Some(match &h.routes {
            RouteSource::Named(name) => wire::RouteSpecifier::Rds(hcm::Rds {
                config_source: Some(route_source()),
                route_config_name: name.to_string(),
            }),
            RouteSource::Inline(routes) => wire::RouteSpecifier::RouteConfig(route_config(routes)),
        }),
        http_filters: h.filters.iter().map(http_filter).collect(),
        normalize_path: boolean(h.path.normalize),
        merge_slashes: h.path.merge_slashes,
        path_with_escaped_slashes_action: escaped_slashes(h.path.escaped_slashes).into(),
        common_http_protocol_options: Some(common(h)),
        http_protocol_options: Some(http1(h)),
        http2_protocol_options: Some(http2(&h.http2)),
        max_request_headers_kb: uint(h.limits.max_request_headers_bytes / 1024),
        stream_idle_timeout: Some(limit(h.timeouts.stream_idle)),
        request_timeout: h.timeouts.request.map(duration),
        request_headers_timeout: h.timeouts.request_headers.map(duration),
        drain_timeout: Some(duration(h.timeouts.drain)),
        delayed_close_timeout: Some(limit(h.timeouts.delayed_close)),
        upgrade_configs: h
            .upgrades
            .iter()
            .map(|token| wire::UpgradeConfig {
                upgrade_type: token.clone(),
                ..Default::default()
            })
            .collect(),
        server_header_transformation: transformation.into(),
        server_name: name,
        via: h.via.clone().unwrap_or_default(),
        use_remote_address: boolean(h.use_remote_address),
        xff_num_trusted_hops: h.xff_trusted_hops,
        skip_xff_append: h.skip_xff_append,
        internal_address_config: (!h.internal.is_empty()).then(|| {
            hcm::http_connection_manager::InternalAddressConfig {
                unix_sockets: false,
                cidr_ranges: h.internal.iter().map(cidr).collect(),
            }
        }),
        generate_request_id: boolean(h.request_id.generate),
        preserve_external_request_id: h.request_id.preserve_external,
        always_set_request_id_in_response: h.request_id.set_in_response,
        forward_client_cert_details: client_cert_mode(h.client_cert.mode).into(),
        set_current_client_cert_details: client_cert(h.client_cert),
        strip_matching_host_port: h.strip_port == StripPort::Matching,
        strip_port_mode: (h.strip_port == StripPort::Any)
            .then_some(wire::StripPortMode::StripAnyHostPort(true)),
        tracing: h.tracing.as_ref().map(tracing),
        access_log: h.access_logs.iter().map(access_log).collect(),
        ..Default::default()
    }
}

fn server_header(
    h: &ServerHeader,
) -> (
    hcm::http_connection_manager::ServerHeaderTransformation,
    String,
) {
    use hcm::http_connection_manager::ServerHeaderTransformation as Wire;
    match h {
        ServerHeader::Overwrite(name) => (Wire::Overwrite, name.clone()),
        ServerHeader::AppendIfAbsent(name) => (Wire::AppendIfAbsent, name.clone()),
        ServerHeader::PassThrough => (Wire::PassThrough, String::new()),
    }
}

fn escaped_slashes(
    e: EscapedSlashes,
) -> hcm::http_connection_manager::PathWithEscapedSlashesAction {
    use hcm::http_connection_manager::PathWithEscapedSlashesAction as Wire;
    match e {
        EscapedSlashes::KeepUnchanged => Wire::KeepUnchanged,
        EscapedSlashes::Reject => Wire::RejectRequest,
        EscapedSlashes::UnescapeAndRedirect => Wire::UnescapeAndRedirect,
        EscapedSlashes::UnescapeAndForward => Wire::UnescapeAndForward,
    }
}

fn common(h: &HttpProxy) -> core::HttpProtocolOptions {
    use core::http_protocol_options::HeadersWithUnderscoresAction as Wire;
    core::HttpProtocolOptions {
        idle_timeout: Some(limit(h.timeouts.idle)),
        max_connection_duration: h.timeouts.max_connection_duration.map(duration),
        max_headers_count: uint(h.limits.max_request_headers),
        max_stream_duration: h.timeouts.max_stream_duration.map(duration),
        headers_with_underscores_action: match h.underscores {
            Underscores::Allow => Wire::Allow,
            Underscores::Reject => Wire::RejectRequest,
            Underscores::Drop => Wire::DropHeader,
        }
        .into(),
        max_requests_per_connection: (h.limits.max_requests_per_connection > 0)
            .then(|| uint(h.limits.max_requests_per_connection))
            .flatten(),
        ..Default::default()
    }
}

fn http1(h: &HttpProxy) -> core::Http1ProtocolOptions {
    core::Http1ProtocolOptions {
        accept_http_10: h.http1.accept_http_10,
        default_host_for_http_10: h.http1.default_host.clone().unwrap_or_default(),
        header_key_format: h.http1.preserve_case.then(preserve_case),
        enable_trailers: h.http1.enable_trailers,
        ..Default::default()
    }
}

fn client_cert_mode(mode: Xfcc) -> hcm::http_connection_manager::ForwardClientCertDetails {
    use hcm::http_connection_manager::ForwardClientCertDetails as Wire;
    match mode {
        Xfcc::Sanitize => Wire::Sanitize,
        Xfcc::ForwardOnly => Wire::ForwardOnly,
        Xfcc::AppendForward => Wire::AppendForward,
        Xfcc::SanitizeSet => Wire::SanitizeSet,
        Xfcc::AlwaysForwardOnly => Wire::AlwaysForwardOnly,
    }
}

fn client_cert(
    c: ForwardClientCert,
) -> Option<hcm::http_connection_manager::SetCurrentClientCertDetails> {
    (c.subject || c.cert || c.chain || c.dns || c.uri).then(|| {
        hcm::http_connection_manager::SetCurrentClientCertDetails {
            subject: when(c.subject),
            cert: c.cert,
            chain: c.chain,
            dns: c.dns,
            uri: c.uri,
            ..Default::default()
        }
    })
}

fn tracing(t: &Tracing) -> hcm::http_connection_manager::Tracing {
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let provider = t.cluster.as_ref().map(|cluster| trace::tracing::Http {
        name: "envoy.tracers.opentelemetry".to_owned(),
        config_type: Some(trace::tracing::http::ConfigType::TypedConfig(any(
            &trace::OpenTelemetryConfig {
                grpc_service: Some(core::GrpcService {
                    target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                        cluster_name: cluster.to_string(),
                        ..Default::default()
                    })),
                    ..Default::default()
                }),
                service_name: t.service_name.clone(),
                ..Default::default()
            },
        ))),
    });
    hcm::http_connection_manager::Tracing {
        random_sampling: percent(t.random),
        overall_sampling: percent(t.overall),
        provider,
        ..Default::default()
    }
}

fn http_filter(f: &HttpFilter) -> hcm::HttpFilter {
    let (name, config, is_optional) = match f {
        HttpFilter::Authz(filter) => (filter.name.as_ref(), any(&authz::http(filter)), false),
        HttpFilter::Fault(f) => ("envoy.filters.http.fault", any(&fault(f)), false),
        HttpFilter::Cors => (
            "envoy.filters.http.cors",
            any(&cors::Cors::default()),
            false,
        ),
        // Istio's own filter: a stock Envoy, which does not have it, may leave it out.
        HttpFilter::PeerMetadata => (
            "istio.peer_metadata",
            google::Any {
                type_url: foreign::PEER_METADATA.to_owned(),
                value: Vec::new(),
            },
            true,
        ),
        HttpFilter::GrpcStats => (
            "envoy.filters.http.grpc_stats",
            any(&grpc_stats::FilterConfig {
                emit_filter_state: true,
                ..Default::default()
            }),
            false,
        ),
        HttpFilter::Router(r) => (
            "envoy.filters.http.router",
            any(&router::Router {
                suppress_envoy_headers: r.suppress_envoy_headers,
                respect_expected_rq_timeout: r.respect_expected_rq_timeout,
                ..Default::default()
            }),
            false,
        ),
    };
    hcm::HttpFilter {
        name: name.to_owned(),
        is_optional,
        disabled: false,
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
    }
}

pub(super) fn fault(f: &Fault) -> fault::HttpFault {
    use fault::fault_abort::{ErrorType, HeaderAbort};
    use fault_common::fault_delay::{FaultDelaySecifier, HeaderDelay};
    fault::HttpFault {
        delay: f.delay.map(|(share, delay)| fault_common::FaultDelay {
            percentage: Some(fraction(share)),
            fault_delay_secifier: Some(match delay {
                Delay::Fixed(d) => FaultDelaySecifier::FixedDelay(duration(d)),
                Delay::Header => FaultDelaySecifier::HeaderDelay(HeaderDelay::default()),
            }),
        }),
        abort: f.abort.map(|(share, abort)| fault::FaultAbort {
            percentage: Some(fraction(share)),
            error_type: Some(match abort {
                Abort::Http(status) => ErrorType::HttpStatus(status.into()),
                Abort::Grpc(status) => ErrorType::GrpcStatus(status),
                Abort::Header => ErrorType::HeaderAbort(HeaderAbort::default()),
            }),
            ..Default::default()
        }),
        upstream_cluster: f.upstream_cluster.clone().unwrap_or_default(),
        headers: f.headers.iter().map(header_match).collect(),
        max_active_faults: f.max_active.and_then(uint),
        ..Default::default()
    }
}
