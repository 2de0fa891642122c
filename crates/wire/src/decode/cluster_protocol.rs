//! `HttpProtocolOptions` of a cluster: what is spoken to its members, and the SNI rules that live there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ripstop_model::defaults::envoy;
use ripstop_model::snapshot::cluster::{
    FloodLimits, Http1, Http2, Http2Keepalive, Protocol, Transport,
};
use ripstop_model::snapshot::tls::{AutoSni, Roots, UpstreamTls};

use super::{Decoding, fields, is};
use crate::pb::{core, google, preserve_case, upstream_http};

/// What the options say, with Envoy's defaults.
pub(super) struct Upstream {
    pub(super) protocol: Protocol,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_connection_duration: Option<Duration>,
    pub(super) max_requests_per_connection: Option<u32>,
    pub(super) auto_sni: bool,
    pub(super) auto_san: bool,
}

/// The fields of `Cluster` that `HttpProtocolOptions` replaced.
pub(super) struct Legacy {
    pub(super) common: Option<core::HttpProtocolOptions>,
    pub(super) upstream: Option<core::UpstreamHttpProtocolOptions>,
    pub(super) http1: Option<core::Http1ProtocolOptions>,
    pub(super) http2: Option<core::Http2ProtocolOptions>,
}

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn upstream(
    cx: &mut Decoding,
    mut extensions: HashMap<String, google::Any>,
    legacy: Legacy,
) -> Upstream {
    let typed = extensions.remove(OPTIONS);
    let mut unknown: Vec<String> = extensions.into_keys().collect();
    unknown.sort();
    let found = cx.field("typed_extension_protocol_options", |cx| {
        for key in unknown {
            cx.key(key, |cx| cx.ignore_here("is not supported; remove it"));
        }
        typed.map(|any| {
            cx.key(OPTIONS, |cx| {
                let m = cx.expect(&any).unwrap_or_default();
                options(cx, m)
            })
        })
    });
    found.unwrap_or_else(|| {
        let protocol = match legacy.http2 {
            Some(m) => Protocol::Http2(http2(cx, Some(m))),
            None => Protocol::Http1(http1(cx, legacy.http1)),
        };
        with_common(cx, protocol, legacy.common, legacy.upstream)
    })
}

fn options(cx: &mut Decoding, m: upstream_http::HttpProtocolOptions) -> Upstream {
    use upstream_http::http_protocol_options::{
        AutoHttpConfig, UpstreamProtocolOptions as Options, UseDownstreamHttpConfig,
        explicit_http_config::ProtocolConfig,
    };
    fields!(cx, m => upstream_http::HttpProtocolOptions {
            common_http_protocol_options, upstream_http_protocol_options, upstream_protocol_options,
        }
        refuse { http_filters, header_validation_config }
        ignore { outlier_detection, request_mirror_policies, hash_policy, retry_policy });
    let protocol = match upstream_protocol_options {
        Some(Options::ExplicitHttpConfig(m)) => cx.field("explicit_http_config", |cx| match m.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(m)) => Protocol::Http2(http2(cx, Some(m))),
            Some(ProtocolConfig::HttpProtocolOptions(m)) => Protocol::Http1(http1(cx, Some(m))),
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                cx.invalid("http3_protocol_options", "HTTP/3 is not supported");
                Protocol::Http1(Http1::default())
            }
            None => Protocol::Http1(Http1::default()),
        }),
        Some(Options::UseDownstreamProtocolConfig(m)) => {
            cx.field("use_downstream_protocol_config", |cx| {
                fields!(cx, m => UseDownstreamHttpConfig { http_protocol_options, http2_protocol_options }
                    ignore { http3_protocol_options });
                Protocol::Downstream {
                    http1: http1(cx, http_protocol_options),
                    http2: http2(cx, http2_protocol_options),
                }
            })
        }
        Some(Options::AutoConfig(m)) => cx.field("auto_config", |cx| {
            fields!(cx, m => AutoHttpConfig { http_protocol_options, http2_protocol_options }
                ignore { http3_protocol_options, alternate_protocols_cache_options });
            Protocol::Alpn {
                http1: http1(cx, http_protocol_options),
                http2: http2(cx, http2_protocol_options),
            }
        }),
        None => {
            cx.invalid_here("needs explicit_http_config, use_downstream_protocol_config or auto_config");
            Protocol::Http1(Http1::default())
        }
    };
    with_common(
        cx,
        protocol,
        common_http_protocol_options,
        upstream_http_protocol_options,
    )
}

fn with_common(
    cx: &mut Decoding,
    protocol: Protocol,
    common: Option<core::HttpProtocolOptions>,
    upstream: Option<core::UpstreamHttpProtocolOptions>,
) -> Upstream {
    let core::UpstreamHttpProtocolOptions {
        auto_sni,
        auto_san_validation,
        override_auto_sni_header,
    } = upstream.unwrap_or_default();
    cx.ignore(
        "upstream_http_protocol_options.override_auto_sni_header",
        !override_auto_sni_header.is_empty(),
    );
    let (idle_timeout, max_connection_duration, requests) =
        cx.field("common_http_protocol_options", |cx| {
            let m = common.unwrap_or_default();
            fields!(cx, m => core::HttpProtocolOptions {
                    idle_timeout, max_connection_duration, max_requests_per_connection,
                }
                ignore {
                    max_headers_count, max_response_headers_kb, max_stream_duration,
                    headers_with_underscores_action,
                }
                inert { max_connection_duration_jitter });
            (
                cx.limit("idle_timeout", idle_timeout, envoy::IDLE_TIMEOUT),
                cx.limit("max_connection_duration", max_connection_duration, None),
                max_requests_per_connection.map(|v| v.value),
            )
        });
    Upstream {
        protocol,
        idle_timeout,
        max_connection_duration,
        max_requests_per_connection: requests,
        auto_sni,
        auto_san: auto_san_validation,
    }
}

#[allow(deprecated)]
fn http1(cx: &mut Decoding, m: Option<core::Http1ProtocolOptions>) -> Http1 {
    let m = m.unwrap_or_default();
    cx.field("http_protocol_options", |cx| {
        fields!(cx, m => core::Http1ProtocolOptions { header_key_format }
        ignore { send_fully_qualified_url }
        inert {
            allow_absolute_url, accept_http_10, default_host_for_http_10, enable_trailers,
            allow_chunked_length, override_stream_error_on_invalid_http_message,
            use_balsa_parser, allow_custom_methods, ignore_http_11_upgrade,
        });
        Http1 {
            preserve_case: preserve_case(cx, header_key_format),
        }
    })
}

/// `header_key_format` with the preserve-case formatter.
pub(super) fn preserve_case(
    cx: &mut Decoding,
    m: Option<core::http1_protocol_options::HeaderKeyFormat>,
) -> bool {
    use core::http1_protocol_options::header_key_format::HeaderFormat;
    match m.and_then(|m| m.header_format) {
        Some(HeaderFormat::StatefulFormatter(m)) => {
            let preserves = m
                .typed_config
                .is_some_and(|any| is::<preserve_case::PreserveCaseFormatterConfig>(&any));
            cx.ignore("header_key_format.stateful_formatter", !preserves);
            preserves
        }
        Some(HeaderFormat::ProperCaseWords(_)) => {
            cx.ignore("header_key_format.proper_case_words", true);
            false
        }
        None => false,
    }
}

/// `http2_protocol_options`, wherever they are.
pub(super) fn http2(cx: &mut Decoding, m: Option<core::Http2ProtocolOptions>) -> Http2 {
    cx.field("http2_protocol_options", |cx| {
        http2_here(cx, m.unwrap_or_default())
    })
}

#[allow(deprecated)]
fn http2_here(cx: &mut Decoding, m: core::Http2ProtocolOptions) -> Http2 {
    fields!(cx, m => core::Http2ProtocolOptions {
        max_concurrent_streams, initial_stream_window_size, initial_connection_window_size,
        connection_keepalive, max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_reset_burst, stream_reset_rate, allow_connect,
    }
    ignore { allow_metadata, custom_settings_parameters }
    inert {
        hpack_table_size, max_outbound_frames,
        stream_error_on_invalid_http_messaging, override_stream_error_on_invalid_http_message,
        use_oghttp2_codec, max_metadata_size, enable_huffman_encoding, max_header_field_size_kb,
        disallow_obs_text,
    });
    let or = |v: Option<google::UInt32Value>, default| v.map_or(default, |v| v.value);
    let long = |v: Option<google::UInt64Value>, default| {
        v.map_or(default, |v| u32::try_from(v.value).unwrap_or(u32::MAX))
    };
    let floods = envoy::HTTP2.floods;
    let keepalive = cx.optional("connection_keepalive", connection_keepalive, |cx, m| {
        fields!(cx, m => core::KeepaliveSettings { interval, timeout }
            ignore { connection_idle_interval }
            inert { interval_jitter });
        let timeout = cx.duration("timeout", timeout)?;
        Some(Http2Keepalive {
            interval: cx.duration("interval", interval)?,
            timeout,
        })
    });
    Http2 {
        max_concurrent_streams: or(max_concurrent_streams, envoy::HTTP2.max_concurrent_streams),
        initial_stream_window: initial_stream_window_size.map(|v| v.value),
        initial_connection_window: initial_connection_window_size.map(|v| v.value),
        keepalive,
        allow_connect,
        floods: FloodLimits {
            control_frames: or(max_outbound_control_frames, floods.control_frames),
            empty_frames: or(
                max_consecutive_inbound_frames_with_empty_payload,
                floods.empty_frames,
            ),
            priority_frames: or(
                max_inbound_priority_frames_per_stream,
                floods.priority_frames,
            ),
            window_updates: or(
                max_inbound_window_update_frames_per_data_frame_sent,
                floods.window_updates,
            ),
            resets: long(stream_reset_burst, floods.resets),
            resets_per_second: long(stream_reset_rate, floods.resets_per_second),
        },
    }
}

/// The cluster-wide SNI rules, written into every transport they govern.
pub(super) fn apply_sni(transport: &mut Transport, auto_sni: bool, auto_san: bool) {
    let apply = |tls: &mut Arc<UpstreamTls>| {
        if !(auto_sni || auto_san) {
            return;
        }
        let tls = Arc::make_mut(tls);
        if auto_sni {
            tls.auto_sni = AutoSni::Authority;
        }
        if auto_san && tls.validation.roots != Roots::None {
            tls.validation.host_name = true;
        }
    };
    transport.default.as_mut().map(apply);
    for m in &mut transport.matches {
        m.tls.as_mut().map(apply);
    }
}
