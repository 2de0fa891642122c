//! `HttpConnectionManager`.

use std::sync::Arc;

use ripstop_model::defaults::envoy;
use ripstop_model::snapshot::Fraction;
use ripstop_model::snapshot::http::{
    Codec, EscapedSlashes, ForwardClientCert, Http1Options, HttpLimits, HttpProxy, HttpTimeouts,
    PathOptions, RequestId, RouteSource, ServerHeader, StripPort, Tracing, Underscores, Xfcc,
};

use super::access_log::access_logs;
use super::cluster::from_ads;
use super::cluster_protocol::{http2, preserve_case};
use super::http_filter::http_filters;
use super::value::{cidr, percent};
use super::{Decoding, fields, is, route_config};
use crate::pb::{core, hcm, request_id, trace};

#[allow(deprecated)]
pub(super) fn manager(cx: &mut Decoding, m: hcm::HttpConnectionManager) -> Option<HttpProxy> {
    use hcm::http_connection_manager as wire;
    fields!(cx, m => hcm::HttpConnectionManager {
        codec_type, stat_prefix, http_filters, tracing, common_http_protocol_options,
        http_protocol_options, http2_protocol_options, server_name,
        server_header_transformation, max_request_headers_kb, stream_idle_timeout,
        request_timeout, request_headers_timeout, drain_timeout, delayed_close_timeout,
        access_log, use_remote_address, xff_num_trusted_hops, skip_xff_append, via,
        generate_request_id, preserve_external_request_id, always_set_request_id_in_response,
        forward_client_cert_details, set_current_client_cert_details, upgrade_configs,
        normalize_path, merge_slashes, path_with_escaped_slashes_action, request_id_extension,
        strip_matching_host_port, route_specifier, strip_port_mode, internal_address_config,
    }
    refuse {
        original_ip_detection_extensions, early_header_mutation_extensions,
        forward_client_cert_matcher, path_normalization_options, typed_header_validation_config,
    }
    ignore {
        add_user_agent, http3_protocol_options, scheme_header_transformation,
        access_log_flush_interval, flush_access_log_on_new_request, access_log_options,
        proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6, local_reply_config,
        proxy_status_config, append_x_forwarded_port, append_local_overload, forward_proto_config,
    }
    inert {
        http1_safe_max_connection_duration, stream_flush_timeout, drain_timeout_jitter,
        stream_error_on_invalid_http_message, strip_trailing_host_dot,
        add_proxy_protocol_connection_state,
    });
    let (limits, mut timeouts, underscores) = cx.field("common_http_protocol_options", |cx| {
        common(cx, common_http_protocol_options)
    });
    timeouts.stream_idle = cx.limit(
        "stream_idle_timeout",
        stream_idle_timeout,
        timeouts.stream_idle,
    );
    timeouts.request = cx.limit("request_timeout", request_timeout, None);
    timeouts.request_headers = cx.limit("request_headers_timeout", request_headers_timeout, None);
    timeouts.drain = cx
        .duration("drain_timeout", drain_timeout)
        .unwrap_or(timeouts.drain);
    timeouts.delayed_close = cx.limit(
        "delayed_close_timeout",
        delayed_close_timeout,
        timeouts.delayed_close,
    );
    let limits = HttpLimits {
        max_request_headers_bytes: max_request_headers_kb
            .map_or(limits.max_request_headers_bytes, |v| {
                v.value.saturating_mul(1024)
            }),
        ..limits
    };
    cx.field("request_id_extension.typed_config", |cx| {
        let Some(any) = request_id_extension.and_then(|m| m.typed_config) else {
            return;
        };
        if !is::<request_id::UuidRequestIdConfig>(&any) {
            cx.ignore_here(format!("{} is not supported; remove it", any.type_url));
        }
    });
    let strip_port = match strip_port_mode {
        Some(wire::StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
        _ if strip_matching_host_port => StripPort::Matching,
        _ => StripPort::No,
    };
    let name = if server_name.is_empty() {
        envoy::SERVER_NAME.to_owned()
    } else {
        server_name
    };
    let routes = routes(cx, route_specifier);
    let upgrades = cx.each("upgrade_configs", upgrade_configs, |cx, m| {
        fields!(cx, m => wire::UpgradeConfig { upgrade_type, enabled } refuse { filters });
        enabled
            .is_none_or(|v| v.value)
            .then(|| upgrade_type.to_ascii_lowercase())
    });
    Some(HttpProxy {
        stat_prefix,
        codec: match cx.enumeration("codec_type", codec_type)? {
            wire::CodecType::Auto => Codec::Auto,
            wire::CodecType::Http1 => Codec::Http1,
            wire::CodecType::Http2 => Codec::Http2,
            wire::CodecType::Http3 => {
                cx.invalid("codec_type", "HTTP/3 is not supported");
                return None;
            }
        },
        filters: self::http_filters(cx, http_filters),
        path: PathOptions {
            normalize: normalize_path.is_some_and(|v| v.value),
            merge_slashes,
            escaped_slashes: escaped_slashes(cx, path_with_escaped_slashes_action)?,
        },
        timeouts,
        limits,
        http1: http1(cx, http_protocol_options),
        http2: http2(cx, http2_protocol_options),
        upgrades,
        server_header: match cx
            .enumeration("server_header_transformation", server_header_transformation)?
        {
            wire::ServerHeaderTransformation::Overwrite => ServerHeader::Overwrite(name),
            wire::ServerHeaderTransformation::AppendIfAbsent => ServerHeader::AppendIfAbsent(name),
            wire::ServerHeaderTransformation::PassThrough => ServerHeader::PassThrough,
        },
        via: Some(via).filter(|v| !v.is_empty()),
        use_remote_address: use_remote_address.is_some_and(|v| v.value),
        xff_trusted_hops: xff_num_trusted_hops,
        skip_xff_append,
        internal: cx.field("internal_address_config", |cx| {
            let Some(m) = internal_address_config else {
                return Vec::new();
            };
            fields!(cx, m => wire::InternalAddressConfig { cidr_ranges } inert { unix_sockets });
            match cidr_ranges.is_empty() {
                true => envoy::INTERNAL.to_vec(),
                false => cx.each("cidr_ranges", cidr_ranges, cidr),
            }
        }),
        request_id: RequestId {
            generate: generate_request_id.is_none_or(|v| v.value),
            preserve_external: preserve_external_request_id,
            set_in_response: always_set_request_id_in_response,
        },
        client_cert: client_cert(
            cx,
            forward_client_cert_details,
            set_current_client_cert_details,
        )?,
        strip_port,
        underscores,
        tracing: cx.optional("tracing", tracing, self::tracing),
        access_logs: access_logs(cx, access_log),
        routes: routes?,
    })
}

fn common(
    cx: &mut Decoding,
    m: Option<core::HttpProtocolOptions>,
) -> (HttpLimits, HttpTimeouts, Underscores) {
    use core::http_protocol_options::HeadersWithUnderscoresAction as Wire;
    let m = m.unwrap_or_default();
    fields!(cx, m => core::HttpProtocolOptions {
            idle_timeout, max_connection_duration, max_headers_count, max_stream_duration,
            headers_with_underscores_action, max_requests_per_connection,
        }
        inert { max_connection_duration_jitter, max_response_headers_kb });
    let limits = HttpLimits {
        max_request_headers: max_headers_count
            .map_or(envoy::HTTP_LIMITS.max_request_headers, |v| v.value),
        max_requests_per_connection: max_requests_per_connection.map_or(0, |v| v.value),
        ..envoy::HTTP_LIMITS
    };
    let timeouts = HttpTimeouts {
        idle: cx.limit("idle_timeout", idle_timeout, envoy::IDLE_TIMEOUT),
        max_connection_duration: cx.limit("max_connection_duration", max_connection_duration, None),
        max_stream_duration: cx.limit("max_stream_duration", max_stream_duration, None),
        ..envoy::HTTP_TIMEOUTS
    };
    let underscores = match cx.enumeration(
        "headers_with_underscores_action",
        headers_with_underscores_action,
    ) {
        Some(Wire::Allow) | None => Underscores::Allow,
        Some(Wire::RejectRequest) => Underscores::Reject,
        Some(Wire::DropHeader) => Underscores::Drop,
    };
    (limits, timeouts, underscores)
}

#[allow(deprecated)]
fn http1(cx: &mut Decoding, m: Option<core::Http1ProtocolOptions>) -> Http1Options {
    let m = m.unwrap_or_default();
    cx.field("http_protocol_options", |cx| {
        // Chunked beside a length is refused always: it is how requests are smuggled.
        fields!(cx, m => core::Http1ProtocolOptions {
            allow_absolute_url, accept_http_10, default_host_for_http_10, header_key_format,
            enable_trailers,
        }
        ignore { allow_chunked_length, send_fully_qualified_url, ignore_http_11_upgrade }
        inert {
            override_stream_error_on_invalid_http_message, use_balsa_parser, allow_custom_methods,
        });
        if allow_absolute_url.is_some_and(|v| !v.value) {
            cx.field("allow_absolute_url", |cx| {
                cx.ignore_here(
                    "a server takes the absolute form (RFC 9112 section 3.2.2); remove it",
                );
            });
        }
        Http1Options {
            accept_http_10,
            default_host: Some(default_host_for_http_10).filter(|h| !h.is_empty()),
            preserve_case: preserve_case(cx, header_key_format),
            enable_trailers,
        }
    })
}

fn escaped_slashes(cx: &mut Decoding, value: i32) -> Option<EscapedSlashes> {
    use hcm::http_connection_manager::PathWithEscapedSlashesAction as Wire;
    Some(
        match cx.enumeration("path_with_escaped_slashes_action", value)? {
            Wire::ImplementationSpecificDefault | Wire::KeepUnchanged => {
                EscapedSlashes::KeepUnchanged
            }
            Wire::RejectRequest => EscapedSlashes::Reject,
            Wire::UnescapeAndRedirect => EscapedSlashes::UnescapeAndRedirect,
            Wire::UnescapeAndForward => EscapedSlashes::UnescapeAndForward,
        },
    )
}

fn client_cert(
    cx: &mut Decoding,
    mode: i32,
    details: Option<hcm::http_connection_manager::SetCurrentClientCertDetails>,
) -> Option<ForwardClientCert> {
    use hcm::http_connection_manager::{
        ForwardClientCertDetails as Wire, SetCurrentClientCertDetails,
    };
    let mode = match cx.enumeration("forward_client_cert_details", mode)? {
        Wire::Sanitize => Xfcc::Sanitize,
        Wire::ForwardOnly => Xfcc::ForwardOnly,
        Wire::AppendForward => Xfcc::AppendForward,
        Wire::SanitizeSet => Xfcc::SanitizeSet,
        Wire::AlwaysForwardOnly => Xfcc::AlwaysForwardOnly,
    };
    let m = details.unwrap_or_default();
    Some(cx.field("set_current_client_cert_details", |cx| {
        fields!(cx, m => SetCurrentClientCertDetails { subject, cert, chain, dns, uri }
            ignore { issuer, format });
        ForwardClientCert {
            mode,
            subject: subject.is_some_and(|v| v.value),
            cert,
            chain,
            dns,
            uri,
        }
    }))
}

fn routes(
    cx: &mut Decoding,
    m: Option<hcm::http_connection_manager::RouteSpecifier>,
) -> Option<RouteSource> {
    use hcm::http_connection_manager::RouteSpecifier as Wire;
    match m {
        Some(Wire::Rds(m)) => cx.field("rds", |cx| {
            let hcm::Rds {
                config_source,
                route_config_name,
            } = m;
            if let Some(source) = config_source {
                cx.field("config_source", |cx| from_ads(cx, source));
            }
            Some(RouteSource::Named(route_config_name.into()))
        }),
        Some(Wire::RouteConfig(m)) => cx
            .field("route_config", |cx| route_config(cx, m))
            .map(|r| RouteSource::Inline(Arc::new(r))),
        Some(Wire::ScopedRoutes(_)) => {
            cx.invalid("scoped_routes", "is not supported; use rds or route_config");
            None
        }
        None => {
            cx.invalid_here("has no routes: give rds or route_config");
            None
        }
    }
}

fn tracing(cx: &mut Decoding, m: hcm::http_connection_manager::Tracing) -> Option<Tracing> {
    use trace::tracing::http::ConfigType;
    fields!(cx, m => hcm::http_connection_manager::Tracing {
            client_sampling, random_sampling, overall_sampling, max_path_tag_length, provider,
        }
        ignore { custom_tags, operation, upstream_operation, no_context_propagation }
        inert { verbose, spawn_upstream_span });
    if provider.is_some() && cx.is_file() {
        cx.field("provider", |cx| {
            cx.ignore_here("spans go where the mesh says, and without a mesh nowhere; remove it");
        });
    }
    if client_sampling.is_some_and(|share| share.value < 100.0) {
        cx.field("client_sampling", |cx| {
            cx.ignore_here("x-client-trace-id is not supported, whatever its share; remove it");
        });
    }
    if max_path_tag_length.is_some_and(|v| v.value != envoy::MAX_PATH_TAG_LENGTH) {
        cx.ignore("max_path_tag_length", true);
    }
    let exporter = cx.optional("provider", provider, |cx, m| {
        fields!(cx, m => trace::tracing::Http { config_type } inert { name });
        let Some(ConfigType::TypedConfig(any)) = config_type else {
            cx.invalid("typed_config", "is required");
            return None;
        };
        cx.field("typed_config", |cx| {
            if !is::<trace::OpenTelemetryConfig>(&any) {
                cx.ignore_here(format!(
                    "tracer {} is not supported; use OpenTelemetryConfig",
                    any.type_url
                ));
                return None;
            }
            let m = cx.unpack(&any)?;
            opentelemetry(cx, m)
        })
    });
    let (cluster, service_name) = exporter.unwrap_or_default();
    Some(Tracing {
        cluster: Some(cluster).filter(|c| !c.is_empty()).map(Into::into),
        service_name,
        random: percent(random_sampling, Fraction::ALWAYS),
        overall: percent(overall_sampling, Fraction::ALWAYS),
    })
}

/// The collector's cluster and the service name.
fn opentelemetry(cx: &mut Decoding, m: trace::OpenTelemetryConfig) -> Option<(String, String)> {
    use core::grpc_service::TargetSpecifier;
    fields!(cx, m => trace::OpenTelemetryConfig { grpc_service, service_name }
    ignore { http_service, exporter, resource_detectors, sampler }
    inert {
        max_cache_size, set_telemetry_sdk_resource_attributes,
        set_service_name_resource_attribute, set_instrumentation_scope,
    });
    let cluster = cx.optional("grpc_service", grpc_service, |cx, m| {
        fields!(cx, m => core::GrpcService { target_specifier }
            ignore { initial_metadata }
            inert { timeout, retry_policy });
        match target_specifier {
            Some(TargetSpecifier::EnvoyGrpc(m)) => Some(m.cluster_name),
            _ => {
                cx.invalid("envoy_grpc", "is required");
                None
            }
        }
    });
    Some((cluster.unwrap_or_default(), service_name))
}
