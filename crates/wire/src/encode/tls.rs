//! TLS contexts and secrets.

use ripstop_model::snapshot::matching::StringMatch;
use ripstop_model::snapshot::tls::{
    AutoSni, Certificate, DownstreamTls, Roots, SanKind, SanMatch, Secret, SecretBody, TlsVersion,
    UpstreamTls, Validation,
};

use super::SDS_CLUSTER;
use super::value::{any, pem, string_match, when};
use crate::pb::{core, google, raw_buffer, tls};

fn socket(name: &str, config: google::Any) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}

pub(super) fn downstream(t: &DownstreamTls) -> core::TransportSocket {
    let context = tls::DownstreamTlsContext {
        common_tls_context: Some(common(
            &t.certificates,
            t.validation.as_ref(),
            &t.alpn,
            t.min_version,
            t.max_version,
        )),
        require_client_certificate: when(t.require_client_certificate),
        ..Default::default()
    };
    socket("envoy.transport_sockets.tls", any(&context))
}

/// `None` is plain text.
pub(super) fn upstream(t: Option<&UpstreamTls>) -> core::TransportSocket {
    let Some(t) = t else {
        return socket(
            "envoy.transport_sockets.raw_buffer",
            any(&raw_buffer::RawBuffer::default()),
        );
    };
    let mut validation = t.validation.clone();
    if validation.host_name && t.auto_sni == AutoSni::No {
        // Envoy has no such check for a name that is given: the same, said outright.
        validation.sans = t.sni.iter().map(|sni| dns_san(sni)).collect();
    }
    let checks = validation.roots != Roots::None
        || !validation.sans.is_empty()
        || !validation.certificate_hashes.is_empty()
        || !validation.spki_hashes.is_empty()
        || validation.accept_untrusted;
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(common(
            t.certificate.as_slice(),
            checks.then_some(&validation),
            &t.alpn,
            t.min_version,
            t.max_version,
        )),
        sni: t.sni.clone().unwrap_or_default(),
        auto_host_sni: t.auto_sni == AutoSni::EndpointHost,
        // With the request's authority the check belongs to the cluster's HTTP options.
        auto_sni_san_validation: t.validation.host_name && t.auto_sni == AutoSni::EndpointHost,
        ..Default::default()
    };
    socket("envoy.transport_sockets.tls", any(&context))
}

/// A DNS name that must be there.
fn dns_san(name: &str) -> SanMatch {
    SanMatch {
        kind: SanKind::Dns,
        value: StringMatch::exact(name),
    }
}

fn common(
    certificates: &[Certificate],
    validation: Option<&Validation>,
    alpn: &[String],
    min: TlsVersion,
    max: TlsVersion,
) -> tls::CommonTlsContext {
    let mut context = tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: version(min).into(),
            tls_maximum_protocol_version: version(max).into(),
            ..Default::default()
        }),
        alpn_protocols: alpn.to_vec(),
        validation_context_type: validation.map(validation_context),
        ..Default::default()
    };
    for certificate in certificates {
        match certificate {
            Certificate::Secret(name) => {
                context.tls_certificate_sds_secret_configs.push(sds(name));
            }
            Certificate::Pair { chain, key } => {
                context.tls_certificates.push(tls::TlsCertificate {
                    certificate_chain: Some(pem(chain)),
                    private_key: Some(pem(key)),
                    ..Default::default()
                })
            }
        }
    }
    context
}

fn version(v: TlsVersion) -> tls::tls_parameters::TlsProtocol {
    match v {
        TlsVersion::V1_2 => tls::tls_parameters::TlsProtocol::TlSv12,
        TlsVersion::V1_3 => tls::tls_parameters::TlsProtocol::TlSv13,
    }
}

/// As Istio writes it: from the agent beside the proxy, over a static cluster.
fn sds(name: &str) -> tls::SdsSecretConfig {
    use core::api_config_source::ApiType;
    use core::config_source::ConfigSourceSpecifier;
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let agent = core::GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: SDS_CLUSTER.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    tls::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(core::ConfigSource {
            initial_fetch_timeout: Some(google::Duration::default()),
            resource_api_version: core::ApiVersion::V3.into(),
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(
                core::ApiConfigSource {
                    api_type: ApiType::Grpc.into(),
                    transport_api_version: core::ApiVersion::V3.into(),
                    grpc_services: vec![agent],
                    set_node_on_first_message_only: true,
                    ..Default::default()
                },
            )),
            ..Default::default()
        }),
    }
}

fn validation_context(v: &Validation) -> tls::common_tls_context::ValidationContextType {
    use tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
    match &v.roots {
        Roots::Secret(name) => {
            ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(validation(v)),
                validation_context_sds_secret_config: Some(sds(name)),
                ..Default::default()
            })
        }
        Roots::Bundle(_) | Roots::System | Roots::None => {
            ValidationContextType::ValidationContext(validation(v))
        }
    }
}

#[allow(deprecated)] // Only `match_subject_alt_names` matches a name of any kind.
fn validation(v: &Validation) -> tls::CertificateValidationContext {
    use tls::certificate_validation_context::{SystemRootCerts, TrustChainVerification};
    use tls::subject_alt_name_matcher::SanType;
    let mut context = tls::CertificateValidationContext {
        verify_certificate_spki: v.spki_hashes.clone(),
        verify_certificate_hash: v.certificate_hashes.clone(),
        trust_chain_verification: if v.accept_untrusted {
            TrustChainVerification::AcceptUntrusted.into()
        } else {
            TrustChainVerification::VerifyTrustChain.into()
        },
        ..Default::default()
    };
    match &v.roots {
        Roots::Bundle(bundle) => context.trusted_ca = Some(pem(bundle)),
        Roots::System => context.system_root_certs = Some(SystemRootCerts::default()),
        Roots::Secret(_) | Roots::None => {}
    }
    for san in &v.sans {
        let kind = match san.kind {
            SanKind::Any => {
                context
                    .match_subject_alt_names
                    .push(string_match(&san.value));
                continue;
            }
            SanKind::Uri => SanType::Uri,
            SanKind::Dns => SanType::Dns,
            SanKind::Ip => SanType::IpAddress,
            SanKind::Email => SanType::Email,
        };
        context
            .match_typed_subject_alt_names
            .push(tls::SubjectAltNameMatcher {
                san_type: kind.into(),
                matcher: Some(string_match(&san.value)),
                oid: String::new(),
            });
    }
    context
}

pub(crate) fn secret(s: &Secret) -> tls::Secret {
    use tls::secret::Type;
    tls::Secret {
        name: s.name.to_string(),
        r#type: Some(match &s.body {
            SecretBody::Certificate { chain, key } => Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: Some(pem(chain)),
                private_key: Some(pem(key)),
                ..Default::default()
            }),
            SecretBody::Validation(v) => Type::ValidationContext(validation(v)),
        }),
    }
}
