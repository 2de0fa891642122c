//! Which members of a cluster may be used: outlier detection and active health checks.

use std::time::Duration;

use ripstop_model::defaults::envoy;
use ripstop_model::snapshot::cluster::{
    FailurePercentage, HealthCheck, Outlier, Probe, SuccessRate,
};

use super::{Decoding, fields};
use crate::pb::{cluster, core, google};

pub(super) fn outlier(cx: &mut Decoding, m: cluster::OutlierDetection) -> Option<Outlier> {
    fields!(cx, m => cluster::OutlierDetection {
            consecutive_5xx, interval, base_ejection_time, max_ejection_percent,
            enforcing_consecutive_5xx, enforcing_success_rate, success_rate_minimum_hosts,
            success_rate_request_volume, success_rate_stdev_factor, consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure, split_external_local_origin_errors,
            consecutive_local_origin_failure, enforcing_consecutive_local_origin_failure,
            failure_percentage_threshold, enforcing_failure_percentage,
            failure_percentage_minimum_hosts, failure_percentage_request_volume, max_ejection_time,
            successful_active_health_check_uneject_host,
        }
        ignore {
            enforcing_local_origin_success_rate, enforcing_failure_percentage_local_origin,
            monitors, always_eject_one_host, detect_degraded_hosts,
        }
        inert { max_ejection_time_jitter });
    let or = |value: Option<google::UInt32Value>, default: u32| value.map_or(default, |v| v.value);
    for (name, share) in [
        ("enforcing_consecutive_5xx", enforcing_consecutive_5xx),
        (
            "enforcing_consecutive_gateway_failure",
            enforcing_consecutive_gateway_failure,
        ),
        (
            "enforcing_consecutive_local_origin_failure",
            enforcing_consecutive_local_origin_failure,
        ),
    ] {
        if share.is_some_and(|share| (1..100).contains(&share.value)) {
            cx.field(name, |cx| {
                cx.ignore_here(
                    "ejecting only a share of those that qualify is not supported; give 0 or 100",
                );
            });
        }
    }
    let consecutive = |count, enforcing, default| {
        (or(enforcing, default) > 0).then(|| or(count, envoy::outlier::CONSECUTIVE))
    };
    let rate = or(
        enforcing_success_rate,
        envoy::outlier::SUCCESS_RATE.enforcing_percent,
    );
    let failure = or(
        enforcing_failure_percentage,
        envoy::outlier::FAILURE_PERCENTAGE.enforcing_percent,
    );
    let base_ejection = cx
        .duration("base_ejection_time", base_ejection_time)
        .unwrap_or(envoy::outlier::BASE_EJECTION);
    Some(Outlier {
        consecutive_5xx: consecutive(consecutive_5xx, enforcing_consecutive_5xx, 100),
        consecutive_gateway: consecutive(
            consecutive_gateway_failure,
            enforcing_consecutive_gateway_failure,
            0,
        ),
        consecutive_local_origin: consecutive(
            consecutive_local_origin_failure,
            enforcing_consecutive_local_origin_failure,
            100,
        )
        .filter(|_| split_external_local_origin_errors),
        split_local_origin: split_external_local_origin_errors,
        interval: cx
            .duration("interval", interval)
            .unwrap_or(envoy::outlier::INTERVAL),
        base_ejection,
        max_ejection: cx
            .duration("max_ejection_time", max_ejection_time)
            .unwrap_or(envoy::outlier::MAX_EJECTION.max(base_ejection)),
        max_ejection_percent: or(max_ejection_percent, envoy::outlier::MAX_EJECTION_PERCENT),
        keep_last: false,
        check_returns: successful_active_health_check_uneject_host.is_none_or(|v| v.value),
        success_rate: (rate > 0).then(|| SuccessRate {
            minimum_hosts: or(
                success_rate_minimum_hosts,
                envoy::outlier::SUCCESS_RATE.minimum_hosts,
            ),
            request_volume: or(
                success_rate_request_volume,
                envoy::outlier::SUCCESS_RATE.request_volume,
            ),
            stdev_factor: or(
                success_rate_stdev_factor,
                envoy::outlier::SUCCESS_RATE.stdev_factor,
            ),
            enforcing_percent: rate,
        }),
        failure_percentage: (failure > 0).then(|| FailurePercentage {
            threshold: or(
                failure_percentage_threshold,
                envoy::outlier::FAILURE_PERCENTAGE.threshold,
            ),
            minimum_hosts: or(
                failure_percentage_minimum_hosts,
                envoy::outlier::FAILURE_PERCENTAGE.minimum_hosts,
            ),
            request_volume: or(
                failure_percentage_request_volume,
                envoy::outlier::FAILURE_PERCENTAGE.request_volume,
            ),
            enforcing_percent: failure,
        }),
    })
}

#[allow(deprecated)]
pub(super) fn health_check(cx: &mut Decoding, m: core::HealthCheck) -> Option<HealthCheck> {
    use core::health_check::HealthChecker;
    fields!(cx, m => core::HealthCheck {
        timeout, interval, unhealthy_threshold, healthy_threshold, no_traffic_interval,
        health_checker,
    }
    ignore {
        alt_port, unhealthy_interval, unhealthy_edge_interval, healthy_edge_interval,
        no_traffic_healthy_interval, tls_options, transport_socket_match_criteria,
    }
    inert {
        initial_jitter, interval_jitter, interval_jitter_percent, reuse_connection,
        event_log_path, event_logger, event_service, always_log_health_check_failures,
        always_log_health_check_success,
    });
    let probe = match health_checker {
        Some(HealthChecker::HttpHealthCheck(m)) => {
            cx.field("http_health_check", |cx| http_probe(cx, m))?
        }
        Some(HealthChecker::TcpHealthCheck(m)) => cx.field("tcp_health_check", |cx| {
            fields!(cx, m => core::health_check::TcpHealthCheck { send, receive }
                ignore { proxy_protocol_config });
            Some(Probe::Tcp {
                send: cx.optional("send", send, payload).unwrap_or_default(),
                receive: cx.each("receive", receive, payload),
            })
        })?,
        Some(HealthChecker::GrpcHealthCheck(m)) => cx.field("grpc_health_check", |cx| {
            fields!(cx, m => core::health_check::GrpcHealthCheck { service_name, authority }
                ignore { initial_metadata });
            Some(Probe::Grpc {
                service: service_name,
                authority,
            })
        })?,
        Some(HealthChecker::CustomHealthCheck(_)) => {
            cx.invalid("custom_health_check", "is not supported");
            return None;
        }
        None => {
            cx.invalid_here("has no http, tcp or grpc check");
            return None;
        }
    };
    Some(HealthCheck {
        timeout: needed(cx, "timeout", timeout)?,
        interval: needed(cx, "interval", interval)?,
        no_traffic_interval: cx
            .duration("no_traffic_interval", no_traffic_interval)
            .unwrap_or(envoy::NO_TRAFFIC_INTERVAL),
        unhealthy_threshold: unhealthy_threshold.map_or(1, |v| v.value),
        healthy_threshold: healthy_threshold.map_or(1, |v| v.value),
        probe,
    })
}

fn http_probe(cx: &mut Decoding, m: core::health_check::HttpHealthCheck) -> Option<Probe> {
    fields!(cx, m => core::health_check::HttpHealthCheck { host, path, expected_statuses }
        ignore {
            send, receive, request_headers_to_add, request_headers_to_remove, retriable_statuses,
            codec_client_type, service_name_matcher, method,
        }
        inert { response_buffer_size });
    let mut expected = cx.each("expected_statuses", expected_statuses, |cx, range| {
        match (u16::try_from(range.start), u16::try_from(range.end)) {
            (Ok(start), Ok(end)) if start < end => Some(start..end),
            _ => {
                cx.invalid_here("is not a range of HTTP statuses");
                None
            }
        }
    });
    if expected.is_empty() {
        expected.push(200..201);
    }
    Some(Probe::Http {
        host,
        path,
        expected,
    })
}

/// `text` is hexadecimal.
fn payload(cx: &mut Decoding, m: core::health_check::Payload) -> Option<Vec<u8>> {
    use core::health_check::payload::Payload;
    match m.payload {
        Some(Payload::Binary(bytes)) => Some(bytes),
        Some(Payload::Text(hex)) => {
            let bytes: Option<Vec<u8>> = hex
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect();
            if bytes.is_none() || hex.len() % 2 != 0 {
                cx.invalid("text", "is not hexadecimal");
                return None;
            }
            bytes
        }
        None => None,
    }
}

fn needed(cx: &mut Decoding, name: &str, value: Option<google::Duration>) -> Option<Duration> {
    if value.is_none() {
        cx.invalid(name, "is required");
    }
    cx.duration(name, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_payloads() {
        let mut cx = Decoding::new("");
        let text = |s: &str| core::health_check::Payload {
            payload: Some(core::health_check::payload::Payload::Text(s.into())),
        };
        assert_eq!(payload(&mut cx, text("50494e47")), Some(b"PING".to_vec()));
        assert_eq!(payload(&mut cx, text("50494")), None);
        assert_eq!(payload(&mut cx, text("zz")), None);
    }
}
