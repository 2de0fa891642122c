//! Join tokens: what lets a workload prove who it is before it has a certificate.
//!
//! The control plane keeps only hashes ([`Registry`]); the secret exists in the token file or passes through a
//! descriptor. A token is bound to what it may become ([`Grant`]), expires, and is used up.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::bundle::Fingerprint;
use crate::x509;

/// Tokens alive at once.
const MAX_TOKENS: usize = 10_000;
const PREFIX: &str = "rst1";

/// What the bearer of a token may become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    pub namespace: String,
    pub service_account: String,
    /// The service it may be an endpoint of; none for a pure client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The only workload it may come back as (`<workload>-<replica>.<namespace>`); none before it has joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
}

/// The token file (JSON, to be kept with mode 0600): all a host needs to join.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenFile {
    pub api_version: String,
    pub kind: String,
    /// Verified before the secret is sent: the joining host knows no root yet.
    pub root_sha256: Fingerprint,
    pub trust_domain: String,
    /// The SPIFFE identity behind the control plane's TLS port, demanded under that root.
    pub control_identity: String,
    /// The bearer secret, `rst1.<id>.<random>`.
    pub secret: String,
    /// Seconds since the Unix epoch.
    pub expires: u64,
    pub allows: Grant,
}

impl TokenFile {
    pub const API_VERSION: &str = "ripstop.dev/v1alpha1";
    pub const KIND: &str = "JoinToken";

    pub fn to_json(&self) -> String {
        // Strings and numbers only: serialisation has no way to fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    pub fn parse(json: &str) -> Result<TokenFile, TokenError> {
        let file: TokenFile =
            serde_json::from_str(json).map_err(|e| TokenError::File(e.to_string()))?;
        if file.api_version != Self::API_VERSION || file.kind != Self::KIND {
            return Err(TokenError::File(format!(
                "it is not a {} {}",
                Self::API_VERSION,
                Self::KIND
            )));
        }
        split(&file.secret).ok_or_else(|| TokenError::File("its secret is mangled".to_owned()))?;
        Ok(file)
    }

    /// Public: what the registry knows the token by.
    pub fn id(&self) -> &str {
        split(&self.secret).unwrap_or_default()
    }

    /// Of the workload that may come back with it.
    pub fn replica(&self) -> Option<u32> {
        let (pod, _namespace) = self.allows.workload.as_deref()?.split_once('.')?;
        pod.rsplit_once('-')?.1.parse().ok()
    }

    /// Refuses early what the control plane would refuse.
    pub fn check(&self, now: SystemTime) -> Result<(), TokenError> {
        if seconds(now) >= self.expires {
            Err(TokenError::Expired)
        } else {
            Ok(())
        }
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenFile({:?})", self.allows)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not a token file: {0}; make one with `ripstop token create`")]
    File(String),
    #[error("unknown token: it was revoked, used up, or belongs to another mesh")]
    Unknown,
    #[error("the token has expired: make a new one with `ripstop token create`")]
    Expired,
    #[error("the token is used up: make a new one with `ripstop token create`, or with more uses")]
    UsedUp,
    #[error("the token allows {allowed}, not {asked}")]
    NotAllowed { allowed: String, asked: String },
    #[error("{MAX_TOKENS} tokens are alive: revoke some")]
    TooMany,
    #[error("a token needs at least one use and a lifetime")]
    Empty,
    #[error("no randomness from the operating system")]
    Random,
}

/// What the control plane remembers of one token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// Hexadecimal SHA-256 of the secret.
    hash: String,
    /// Seconds since the Unix epoch.
    pub expires: u64,
    pub uses_left: u32,
    pub allows: Grant,
}

/// All live tokens; serialise it to store it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Registry {
    tokens: BTreeMap<String, Entry>,
}

impl Registry {
    /// Makes a token and answers its secret, which is not kept.
    pub fn issue(
        &mut self,
        allows: Grant,
        ttl: Duration,
        uses: u32,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        self.expire(now);
        if uses == 0 || ttl.is_zero() {
            return Err(TokenError::Empty);
        }
        if self.tokens.len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        let (mut id, mut random) = ([0u8; 8], [0u8; 32]);
        aws_lc_rs::rand::fill(&mut id).map_err(|_| TokenError::Random)?;
        aws_lc_rs::rand::fill(&mut random).map_err(|_| TokenError::Random)?;
        let id = x509::hex(&id);
        let secret = format!("{PREFIX}.{id}.{}", URL_SAFE_NO_PAD.encode(random));
        random.zeroize();
        let expires = seconds(now + ttl);
        let hash = x509::hex(&x509::sha256(secret.as_bytes()));
        self.tokens.insert(
            id,
            Entry {
                hash,
                expires,
                uses_left: uses,
                allows,
            },
        );
        Ok(secret)
    }

    /// A credential for a workload on this host: one use, a minute to use it.
    pub fn issue_local(&mut self, allows: Grant, now: SystemTime) -> Result<String, TokenError> {
        self.issue(allows, Duration::from_secs(60), 1, now)
    }

    /// A credential with which one workload may come back, any number of times; an earlier one of it is void.
    pub fn issue_rejoin(
        &mut self,
        allows: Grant,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        self.tokens.retain(|_, entry| {
            entry.allows.workload.is_none() || entry.allows.workload != allows.workload
        });
        self.issue(allows, ttl, u32::MAX, now)
    }

    /// Whether a workload may come back as `id`.
    pub fn is_kept(&self, id: &str, now: SystemTime) -> bool {
        let now = seconds(now);
        let mut entries = self.tokens.values();
        entries.any(|entry| entry.expires > now && entry.allows.workload.as_deref() == Some(id))
    }

    /// Lets the credentials of workloads that live expire no earlier than `ttl` from now.
    pub fn prolong(&mut self, ttl: Duration, now: SystemTime, lives: impl Fn(&str) -> bool) {
        let until = seconds(now + ttl);
        for entry in self.tokens.values_mut() {
            if entry.allows.workload.as_deref().is_some_and(&lives) {
                entry.expires = entry.expires.max(until);
            }
        }
    }

    /// Spends one use and answers the grant. Nothing is spent when the bearer asks for more than it was granted.
    pub fn redeem(
        &mut self,
        secret: &str,
        asked: &Grant,
        now: SystemTime,
    ) -> Result<Grant, TokenError> {
        let entry = self.find(secret)?;
        if seconds(now) >= entry.expires {
            return Err(TokenError::Expired);
        }
        if entry.uses_left == 0 {
            return Err(TokenError::UsedUp);
        }
        let fits = asked.namespace == entry.allows.namespace
            && asked.service_account == entry.allows.service_account
            && (asked.service.is_none() || asked.service == entry.allows.service)
            && (entry.allows.workload.is_none() || asked.workload == entry.allows.workload);
        if !fits {
            return Err(TokenError::NotAllowed {
                allowed: describe(&entry.allows),
                asked: describe(asked),
            });
        }
        entry.uses_left -= 1;
        Ok(entry.allows.clone())
    }

    /// What a secret grants, without spending it.
    pub fn grant(&mut self, secret: &str, now: SystemTime) -> Result<Grant, TokenError> {
        let entry = self.find(secret)?;
        match () {
            () if seconds(now) >= entry.expires => Err(TokenError::Expired),
            () if entry.uses_left == 0 => Err(TokenError::UsedUp),
            () => Ok(entry.allows.clone()),
        }
    }

    fn find(&mut self, secret: &str) -> Result<&mut Entry, TokenError> {
        let id = split(secret).ok_or(TokenError::Unknown)?;
        let entry = self.tokens.get_mut(id).ok_or(TokenError::Unknown)?;
        let hash = x509::hex(&x509::sha256(secret.as_bytes()));
        aws_lc_rs::constant_time::verify_slices_are_equal(hash.as_bytes(), entry.hash.as_bytes())
            .map_err(|_| TokenError::Unknown)?;
        Ok(entry)
    }

    /// Answers whether there was such a token.
    pub fn revoke(&mut self, id: &str) -> bool {
        self.tokens.remove(id).is_some()
    }

    /// Drops what expired. A used-up token stays until then, so that its second use is told apart from a forged one.
    pub fn expire(&mut self, now: SystemTime) {
        let now = seconds(now);
        self.tokens.retain(|_, entry| entry.expires > now);
    }

    /// Ids with their entries, for listing.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.tokens.iter().map(|(id, entry)| (id.as_str(), entry))
    }
}

/// The id inside a well-formed secret.
fn split(secret: &str) -> Option<&str> {
    let mut parts = secret.split('.');
    let (Some(PREFIX), Some(id), Some(random), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    (id.len() == 16 && random.len() == 43).then_some(id)
}

fn describe(grant: &Grant) -> String {
    let service = grant
        .service
        .as_deref()
        .map(|s| format!(", service {s}"))
        .unwrap_or_default();
    let workload = grant
        .workload
        .as_deref()
        .map(|w| format!(", workload {w}"))
        .unwrap_or_default();
    format!(
        "namespace {}, service account {}{service}{workload}",
        grant.namespace, grant.service_account
    )
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds)
    }

    fn grant(account: &str) -> Grant {
        Grant {
            namespace: "default".into(),
            service_account: account.into(),
            service: Some("orders".into()),
            workload: None,
        }
    }

    #[test]
    fn a_token_is_used_up() {
        let mut registry = Registry::default();
        let secret = registry
            .issue(grant("orders"), Duration::from_secs(600), 2, at(0))
            .unwrap();
        for _ in 0..2 {
            assert_eq!(
                registry.redeem(&secret, &grant("orders"), at(1)).unwrap(),
                grant("orders")
            );
        }
        assert_eq!(
            registry.redeem(&secret, &grant("orders"), at(1)),
            Err(TokenError::UsedUp)
        );
        assert_eq!(registry.grant(&secret, at(1)), Err(TokenError::UsedUp));
    }

    #[test]
    fn a_token_expires_and_is_revoked() {
        let mut registry = Registry::default();
        let secret = registry
            .issue(grant("orders"), Duration::from_secs(60), 1, at(0))
            .unwrap();
        assert_eq!(
            registry.redeem(&secret, &grant("orders"), at(60)),
            Err(TokenError::Expired)
        );
        let id = registry.iter().next().unwrap().0.to_owned();
        assert!(registry.revoke(&id));
        assert_eq!(
            registry.redeem(&secret, &grant("orders"), at(1)),
            Err(TokenError::Unknown)
        );
        let other = registry.issue_local(grant("a"), at(0)).unwrap();
        registry.expire(at(61));
        assert_eq!(registry.grant(&other, at(61)), Err(TokenError::Unknown));
    }

    #[test]
    fn asking_for_more_spends_nothing() {
        let mut registry = Registry::default();
        let secret = registry.issue_local(grant("orders"), at(0)).unwrap();
        assert!(matches!(
            registry.redeem(&secret, &grant("admin"), at(1)),
            Err(TokenError::NotAllowed { .. })
        ));
        let other_service = Grant {
            service: Some("users".into()),
            ..grant("orders")
        };
        assert!(matches!(
            registry.redeem(&secret, &other_service, at(1)),
            Err(TokenError::NotAllowed { .. })
        ));
        let no_service = Grant {
            service: None,
            ..grant("orders")
        };
        assert!(registry.redeem(&secret, &no_service, at(1)).is_ok());
    }

    #[test]
    fn a_workload_comes_back_as_itself_for_as_long_as_it_lives() {
        let mut registry = Registry::default();
        let own = |workload: Option<&str>| Grant {
            workload: workload.map(str::to_owned),
            ..grant("orders")
        };
        let month = Duration::from_secs(30 * 24 * 3600);
        let lost = registry
            .issue_rejoin(own(Some("orders-0.default")), month, at(0))
            .unwrap();
        let secret = registry
            .issue_rejoin(own(Some("orders-0.default")), month, at(0))
            .unwrap();
        assert!(registry.is_kept("orders-0.default", at(1)));
        assert!(!registry.is_kept("orders-1.default", at(1)));
        assert_eq!(registry.grant(&lost, at(1)), Err(TokenError::Unknown));
        for asked in [own(None), own(Some("orders-1.default"))] {
            assert!(matches!(
                registry.redeem(&secret, &asked, at(1)),
                Err(TokenError::NotAllowed { .. })
            ));
        }
        let day = 24 * 3600;
        registry.prolong(month, at(29 * day), |id| id == "orders-0.default");
        registry.prolong(month, at(40 * day), |_| false);
        assert!(
            registry
                .redeem(&secret, &own(Some("orders-0.default")), at(58 * day))
                .is_ok()
        );
        assert_eq!(
            registry.grant(&secret, at(59 * day)),
            Err(TokenError::Expired)
        );
    }

    #[test]
    fn forged_and_mangled_secrets_are_unknown() {
        let mut registry = Registry::default();
        let secret = registry.issue_local(grant("orders"), at(0)).unwrap();
        let mut forged = secret.clone();
        forged.pop();
        forged.push(if secret.ends_with('A') { 'B' } else { 'A' });
        for bad in [
            forged.as_str(),
            "",
            "rst1",
            "rst1.x.y",
            "rst1.0000000000000000.aaaa",
            &format!("{secret}.x"),
        ] {
            assert_eq!(
                registry.redeem(bad, &grant("orders"), at(1)),
                Err(TokenError::Unknown),
                "{bad}"
            );
        }
        assert!(registry.redeem(&secret, &grant("orders"), at(1)).is_ok());
    }

    #[test]
    fn the_registry_keeps_hashes_only_and_survives_storing() {
        let mut registry = Registry::default();
        let secret = registry.issue_local(grant("orders"), at(0)).unwrap();
        let stored = serde_json::to_string(&registry).unwrap();
        assert!(!stored.contains(secret.rsplit('.').next().unwrap()));
        let mut restored: Registry = serde_json::from_str(&stored).unwrap();
        assert!(restored.redeem(&secret, &grant("orders"), at(1)).is_ok());
    }

    #[test]
    fn token_files_round_trip() {
        let secret = Registry::default()
            .issue_local(grant("orders"), at(0))
            .unwrap();
        let file = TokenFile {
            api_version: TokenFile::API_VERSION.into(),
            kind: TokenFile::KIND.into(),
            root_sha256: Fingerprint([7; 32]),
            trust_domain: "cluster.local".into(),
            control_identity: "spiffe://cluster.local/ns/mesh/sa/ripstop-control".into(),
            secret,
            expires: seconds(at(60)),
            allows: grant("orders"),
        };
        let read = TokenFile::parse(&file.to_json()).unwrap();
        assert_eq!(read.to_json(), file.to_json());
        assert!(read.check(at(59)).is_ok());
        assert_eq!(read.check(at(60)), Err(TokenError::Expired));
        assert!(matches!(TokenFile::parse("{}"), Err(TokenError::File(_))));
        assert!(matches!(
            TokenFile::parse(&file.to_json().replace("JoinToken", "Mesh")),
            Err(TokenError::File(_))
        ));
    }
}
