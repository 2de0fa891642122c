//! TLS contexts and secrets.

use ripstop_model::snapshot::matching::StringMatch;
use ripstop_model::snapshot::tls::{
    AutoSni, Certificate, DownstreamTls, Roots, SanKind, SanMatch, Secret, SecretBody, TlsVersion,
    UpstreamTls, Validation,
};

use super::value::{pem, string_match};
use super::{Decoding, fields, is};
use crate::pb::{core, raw_buffer, tls};

/// What a `TransportSocket` holds for one side.
pub(super) enum Socket<T> {
    Plain,
    Tls(T),
}

fn transport_socket<M, T>(
    cx: &mut Decoding,
    m: core::TransportSocket,
    decode: impl FnOnce(&mut Decoding, M) -> Option<T>,
) -> Option<Socket<T>>
where
    M: prost::Message + Default + prost::Name,
{
    fields!(cx, m => core::TransportSocket { config_type } inert { name });
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = config_type else {
        cx.invalid("typed_config", "is required");
        return None;
    };
    cx.field("typed_config", |cx| {
        if is::<raw_buffer::RawBuffer>(&any) {
            Some(Socket::Plain)
        } else if is::<M>(&any) {
            let context = cx.unpack(&any)?;
            decode(cx, context).map(Socket::Tls)
        } else {
            cx.invalid_here(format!(
                "transport socket {} is not supported",
                any.type_url
            ));
            None
        }
    })
}

pub(super) fn downstream_socket(
    cx: &mut Decoding,
    m: core::TransportSocket,
) -> Option<Socket<DownstreamTls>> {
    transport_socket(cx, m, downstream)
}

pub(super) fn upstream_socket(
    cx: &mut Decoding,
    m: core::TransportSocket,
) -> Option<Socket<UpstreamTls>> {
    transport_socket(cx, m, upstream)
}

fn downstream(cx: &mut Decoding, m: tls::DownstreamTlsContext) -> Option<DownstreamTls> {
    fields!(cx, m => tls::DownstreamTlsContext { common_tls_context, require_client_certificate }
        refuse { require_sni }
        ignore { ocsp_staple_policy, session_ticket_keys_type, full_scan_certs_on_sni_mismatch }
        inert { disable_stateful_session_resumption, session_timeout, prefer_client_ciphers });
    let common = cx.required("common_tls_context", common_tls_context, common)?;
    if common.certificates.is_empty() {
        cx.invalid("common_tls_context", "a listener needs a certificate");
    }
    // Who demands more of a certificate than its issuer demands one (what Envoy does).
    let demands = common.validation.as_ref().is_some_and(|validation| {
        !validation.sans.is_empty()
            || !validation.certificate_hashes.is_empty()
            || !validation.spki_hashes.is_empty()
    });
    let require_client_certificate = demands || require_client_certificate.is_some_and(|v| v.value);
    Some(DownstreamTls {
        certificates: common.certificates,
        validation: common.validation,
        require_client_certificate,
        alpn: common.alpn,
        min_version: common.min_version,
        max_version: common.max_version,
    })
}

#[allow(deprecated)] // `enforce_rsa_key_usage` is destructured only to be passed over.
fn upstream(cx: &mut Decoding, m: tls::UpstreamTlsContext) -> Option<UpstreamTls> {
    fields!(cx, m => tls::UpstreamTlsContext {
            common_tls_context, sni, auto_host_sni, auto_sni_san_validation,
        }
        inert { allow_renegotiation, max_session_keys, enforce_rsa_key_usage });
    let mut common = cx
        .optional("common_tls_context", common_tls_context, common)
        .unwrap_or_default();
    if common.certificates.len() > 1 {
        cx.invalid(
            "common_tls_context",
            "only one client certificate is supported",
        );
    }
    let mut validation = common.validation.unwrap_or_else(no_validation);
    if auto_sni_san_validation {
        if auto_host_sni {
            validation.host_name = true;
        } else {
            // Takes the place of every other name check.
            validation.sans = vec![SanMatch {
                kind: SanKind::Dns,
                value: StringMatch::exact(sni.clone()),
            }];
        }
    }
    Some(UpstreamTls {
        certificate: common.certificates.pop(),
        validation,
        sni: Some(sni).filter(|s| !s.is_empty()),
        auto_sni: if auto_host_sni {
            AutoSni::EndpointHost
        } else {
            AutoSni::No
        },
        alpn: common.alpn,
        min_version: common.min_version,
        max_version: common.max_version,
    })
}

#[derive(Default)]
struct Common {
    certificates: Vec<Certificate>,
    validation: Option<Validation>,
    alpn: Vec<String>,
    min_version: TlsVersion,
    max_version: TlsVersion,
}

#[allow(deprecated)]
fn common(cx: &mut Decoding, m: tls::CommonTlsContext) -> Option<Common> {
    use tls::common_tls_context::ValidationContextType as Context;
    fields!(cx, m => tls::CommonTlsContext {
            tls_params, tls_certificates, tls_certificate_sds_secret_configs, alpn_protocols,
            validation_context_type,
        }
        refuse {
            tls_certificate_provider_instance, custom_tls_certificate_selector,
            tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance,
            custom_handshaker,
        }
        ignore { key_log });
    let (min_version, max_version) = cx.field("tls_params", |cx| versions(cx, tls_params));
    let mut certificates = cx.each("tls_certificates", tls_certificates, certificate);
    certificates.extend(
        cx.each(
            "tls_certificate_sds_secret_configs",
            tls_certificate_sds_secret_configs,
            sds_name,
        )
        .into_iter()
        .map(|name| Certificate::Secret(name.into())),
    );
    let validation = match validation_context_type {
        None => None,
        Some(Context::ValidationContext(m)) => {
            cx.field("validation_context", |cx| validation(cx, m))
        }
        Some(Context::ValidationContextSdsSecretConfig(m)) => {
            let name = cx.field("validation_context_sds_secret_config", |cx| sds_name(cx, m));
            name.map(|name| Validation {
                roots: Roots::Secret(name.into()),
                ..no_validation()
            })
        }
        Some(Context::CombinedValidationContext(m)) => {
            cx.field("combined_validation_context", |cx| combined(cx, m))
        }
        Some(Context::ValidationContextCertificateProvider(_)) => {
            cx.refuse("validation_context_certificate_provider", true);
            None
        }
        Some(Context::ValidationContextCertificateProviderInstance(_)) => {
            cx.refuse("validation_context_certificate_provider_instance", true);
            None
        }
    };
    Some(Common {
        certificates,
        validation,
        alpn: alpn_protocols,
        min_version,
        max_version,
    })
}

/// Cipher suites, curves and signature algorithms are chosen by the TLS library, which offers no weak ones.
fn versions(cx: &mut Decoding, m: Option<tls::TlsParameters>) -> (TlsVersion, TlsVersion) {
    use tls::tls_parameters::TlsProtocol;
    let Some(m) = m else {
        return (TlsVersion::V1_2, TlsVersion::V1_3);
    };
    fields!(cx, m => tls::TlsParameters { tls_minimum_protocol_version, tls_maximum_protocol_version }
        refuse { compliance_policies }
        ignore { cipher_suites, ecdh_curves, signature_algorithms });
    let mut version = |name, value, default| match cx.enumeration(name, value) {
        Some(TlsProtocol::TlSv12) => TlsVersion::V1_2,
        Some(TlsProtocol::TlSv13) => TlsVersion::V1_3,
        Some(TlsProtocol::TlsAuto) | None => default,
        Some(TlsProtocol::TlSv10 | TlsProtocol::TlSv11) => {
            cx.field(name, |cx| {
                cx.ignore_here("TLS before 1.2 is not supported; TLSv1_2 is used");
            });
            TlsVersion::V1_2
        }
    };
    (
        version(
            "tls_minimum_protocol_version",
            tls_minimum_protocol_version,
            TlsVersion::V1_2,
        ),
        version(
            "tls_maximum_protocol_version",
            tls_maximum_protocol_version,
            TlsVersion::V1_3,
        ),
    )
}

fn certificate(cx: &mut Decoding, m: tls::TlsCertificate) -> Option<Certificate> {
    fields!(cx, m => tls::TlsCertificate { certificate_chain, private_key }
        refuse { pkcs12, private_key_provider, password }
        ignore { ocsp_staple, signed_certificate_timestamp, tls_params }
        inert { watched_directory });
    let chain = cx.required("certificate_chain", certificate_chain, pem);
    let key = cx.required("private_key", private_key, pem);
    Some(Certificate::Pair {
        chain: chain?,
        key: key?,
    })
}

fn sds_name(cx: &mut Decoding, m: tls::SdsSecretConfig) -> Option<String> {
    // Where a secret comes from is decided once per proxy (its own identity, static secrets, ADS), not per reference.
    fields!(cx, m => tls::SdsSecretConfig { name } inert { sds_config });
    if name.is_empty() {
        cx.invalid("name", "is required");
        return None;
    }
    Some(name)
}

#[allow(deprecated)]
fn combined(
    cx: &mut Decoding,
    m: tls::common_tls_context::CombinedCertificateValidationContext,
) -> Option<Validation> {
    use tls::common_tls_context::CombinedCertificateValidationContext as Combined;
    fields!(cx, m => Combined { default_validation_context, validation_context_sds_secret_config }
    refuse {
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    });
    let name = cx.required(
        "validation_context_sds_secret_config",
        validation_context_sds_secret_config,
        sds_name,
    );
    let mut merged = cx
        .optional(
            "default_validation_context",
            default_validation_context,
            validation,
        )
        .unwrap_or_else(no_validation);
    if merged.roots != Roots::None {
        cx.invalid(
            "default_validation_context",
            "roots come from the secret; remove trusted_ca",
        );
    }
    merged.roots = Roots::Secret(name?.into());
    Some(merged)
}

pub(super) fn no_validation() -> Validation {
    Validation {
        roots: Roots::None,
        sans: Vec::new(),
        host_name: false,
        certificate_hashes: Vec::new(),
        spki_hashes: Vec::new(),
        accept_untrusted: false,
    }
}

#[allow(deprecated)] // `match_subject_alt_names` is what Istio sends.
fn validation(cx: &mut Decoding, m: tls::CertificateValidationContext) -> Option<Validation> {
    use tls::certificate_validation_context::TrustChainVerification;
    fields!(cx, m => tls::CertificateValidationContext {
            trusted_ca, system_root_certs, verify_certificate_spki, verify_certificate_hash,
            match_typed_subject_alt_names, match_subject_alt_names, trust_chain_verification,
        }
        refuse {
            ca_certificate_provider_instance, require_signed_certificate_timestamp, crl,
            custom_validator_config, only_verify_leaf_cert_crl, max_verify_depth,
        }
        ignore { allow_expired_certificate }
        inert { watched_directory, suppress_client_ca_list });
    let roots = match (
        cx.optional("trusted_ca", trusted_ca, pem),
        system_root_certs,
    ) {
        (Some(bundle), _) => Roots::Bundle(bundle),
        (None, Some(_)) => Roots::System,
        (None, None) => Roots::None,
    };
    let mut sans = cx.each(
        "match_typed_subject_alt_names",
        match_typed_subject_alt_names,
        san,
    );
    sans.extend(
        cx.each(
            "match_subject_alt_names",
            match_subject_alt_names,
            string_match,
        )
        .into_iter()
        .map(|value| SanMatch {
            kind: SanKind::Any,
            value,
        }),
    );
    let accept_untrusted = cx.enumeration::<TrustChainVerification>(
        "trust_chain_verification",
        trust_chain_verification,
    )? == TrustChainVerification::AcceptUntrusted;
    Some(Validation {
        roots,
        sans,
        host_name: false,
        certificate_hashes: verify_certificate_hash,
        spki_hashes: verify_certificate_spki,
        accept_untrusted,
    })
}

fn san(cx: &mut Decoding, m: tls::SubjectAltNameMatcher) -> Option<SanMatch> {
    use tls::subject_alt_name_matcher::SanType;
    fields!(cx, m => tls::SubjectAltNameMatcher { san_type, matcher } refuse { oid });
    let kind = match cx.enumeration("san_type", san_type)? {
        SanType::Email => SanKind::Email,
        SanType::Dns => SanKind::Dns,
        SanType::Uri => SanKind::Uri,
        SanType::IpAddress => SanKind::Ip,
        SanType::Unspecified | SanType::OtherName => {
            cx.invalid("san_type", "must be EMAIL, DNS, URI or IP_ADDRESS");
            return None;
        }
    };
    let value: StringMatch = cx.required("matcher", matcher, string_match)?;
    Some(SanMatch { kind, value })
}

pub(crate) fn secret(cx: &mut Decoding, m: tls::Secret) -> Option<Secret> {
    use tls::secret::Type;
    fields!(cx, m => tls::Secret { name, r#type });
    let body = match r#type {
        Some(Type::TlsCertificate(m)) => {
            match cx.field("tls_certificate", |cx| certificate(cx, m))? {
                Certificate::Pair { chain, key } => SecretBody::Certificate { chain, key },
                // `certificate` makes only pairs.
                Certificate::Secret(_) => return None,
            }
        }
        Some(Type::ValidationContext(m)) => {
            SecretBody::Validation(cx.field("validation_context", |cx| validation(cx, m))?)
        }
        Some(Type::SessionTicketKeys(_)) => {
            cx.invalid("session_ticket_keys", "is not supported");
            return None;
        }
        Some(Type::GenericSecret(_)) => {
            cx.invalid("generic_secret", "is not supported");
            return None;
        }
        None => {
            cx.invalid_here("has neither tls_certificate nor validation_context");
            return None;
        }
    };
    Some(Secret {
        name: name.into(),
        body,
    })
}
