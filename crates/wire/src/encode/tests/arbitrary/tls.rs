//! TLS contexts and secrets.

use super::*;

impl Entropy {
    pub(super) fn pem(&mut self) -> Pem {
        one_of!(self; Pem::Inline(self.list(4, Self::byte)), Pem::File(self.text().into()))
    }

    pub(super) fn pair(&mut self) -> Certificate {
        Certificate::Pair {
            chain: self.pem(),
            key: self.pem(),
        }
    }

    /// `sds`: the roots may be a secret's name, which a secret itself cannot be.
    pub(super) fn validation(&mut self, sds: bool, host_name: bool) -> Validation {
        let roots = match self.below(if sds { 4 } else { 3 }) {
            0 => Roots::None,
            1 => Roots::Bundle(self.pem()),
            2 => Roots::System,
            _ => Roots::Secret(self.name()),
        };
        let mut sans = self.list(2, |e| SanMatch {
            kind: one_of!(e; SanKind::Uri, SanKind::Dns, SanKind::Ip, SanKind::Email),
            value: e.string_match(),
        });
        sans.extend(self.list(1, |e| SanMatch {
            kind: SanKind::Any,
            value: e.string_match(),
        }));
        Validation {
            host_name: host_name && self.flag(),
            roots,
            sans,
            certificate_hashes: self.list(1, Self::text),
            spki_hashes: self.list(1, Self::text),
            accept_untrusted: self.flag(),
        }
    }

    pub(super) fn versions(&mut self) -> (TlsVersion, TlsVersion) {
        one_of!(self;
            (TlsVersion::V1_2, TlsVersion::V1_3),
            (TlsVersion::V1_2, TlsVersion::V1_2),
            (TlsVersion::V1_3, TlsVersion::V1_3),
        )
    }

    /// `authority`: the whole cluster takes the SNI from requests, and whether it verifies that name.
    pub(super) fn upstream_tls(&mut self, authority: Option<bool>) -> UpstreamTls {
        let (min_version, max_version) = self.versions();
        let auto_sni = match authority {
            Some(_) => AutoSni::Authority,
            None => one_of!(self; AutoSni::No, AutoSni::EndpointHost),
        };
        let mut validation = self.validation(true, auto_sni == AutoSni::EndpointHost);
        if authority == Some(true) && validation.roots != Roots::None {
            validation.host_name = true;
        }
        UpstreamTls {
            certificate: self.optional(|e| one_of!(e; Certificate::Secret(e.name()), e.pair())),
            validation,
            sni: self.optional(Self::text),
            auto_sni,
            alpn: self.list(2, Self::text),
            min_version,
            max_version,
        }
    }

    pub(super) fn downstream_tls(&mut self) -> DownstreamTls {
        let (min_version, max_version) = self.versions();
        let validation = self.optional(|e| e.validation(true, false));
        // Who demands more of a certificate than its issuer demands one.
        let demands = validation.as_ref().is_some_and(|validation| {
            !validation.sans.is_empty()
                || !validation.certificate_hashes.is_empty()
                || !validation.spki_hashes.is_empty()
        });
        DownstreamTls {
            certificates: one_of!(self; vec![Certificate::Secret("default".into())], vec![self.pair()]),
            validation,
            require_client_certificate: demands || self.flag(),
            alpn: self.list(2, Self::text),
            min_version,
            max_version,
        }
    }

    pub(in super::super) fn secret(&mut self) -> Secret {
        Secret {
            name: self.name(),
            body: one_of!(self;
                SecretBody::Certificate { chain: self.pem(), key: self.pem() },
                SecretBody::Validation(self.validation(false, false)),
            ),
        }
    }

    // Clusters and endpoints.
}
