//! The embedded authority: what it signs, what it refuses, how it rotates and survives storing.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType};
use ripstop_identity::ca::{Lifetimes, SignRefusal};
use ripstop_identity::tls::{Client, ClientOptions, Server, ServerOptions, Slot};
use ripstop_identity::verify;
use ripstop_identity::{Authority, Certified, Key, Trust, bundle};
use ripstop_model::spiffe::Spiffe;

use crate::pki::{Clock, connect, exchange, now};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn authority() -> Authority {
    Authority::create("cluster.local", Lifetimes::default(), now()).unwrap()
}

fn id(account: &str) -> Spiffe {
    Spiffe::new("cluster.local", "default", account).unwrap()
}

fn issue(authority: &Authority, account: &str, ttl: Duration, at: SystemTime) -> Certified {
    let key = Key::generate().unwrap();
    let chain = authority
        .sign(&key.csr(&id(account)).unwrap(), &id(account), ttl, at)
        .unwrap();
    assert_eq!(chain.len(), 3, "leaf, intermediate, root");
    key.certify(&chain[..2]).unwrap()
}

#[test]
fn issued_certificates_make_a_mesh() {
    let authority = authority();
    let trust = Trust::new(authority.bundle().unwrap());
    let clock = Clock::at(now());
    let (client_slot, server_slot) = (
        Slot::with(issue(&authority, "orders", HOUR, now())),
        Slot::with(issue(&authority, "users", HOUR, now())),
    );
    let mut options = ClientOptions::mesh(
        client_slot,
        trust.clone(),
        vec![verify::exactly(&id("users"))],
    );
    options.clock = clock.clone();
    let client = Client::new(options).unwrap();
    let mut options = ServerOptions::mesh(server_slot, trust);
    options.clock = clock;
    let server = Server::new(options).unwrap();
    let (client_side, server_side) = connect(&client, &server).unwrap();
    assert_eq!(
        server.peer(&server_side, now()).unwrap().unwrap().spiffe(),
        Some(&id("orders"))
    );
    let users = client
        .peer(&client_side, &crate::pki::name(), now())
        .unwrap();
    assert_eq!(users.spiffe(), Some(&id("users")));
    assert_eq!(
        users.validity().0,
        now() - Duration::from_secs(60),
        "issued into the past for skewed clocks"
    );
    assert!(users.dns_sans().is_empty());
}

#[test]
fn a_leaf_never_outlives_its_issuer() {
    let authority = authority();
    assert_eq!(
        issue(&authority, "a", HOUR, now()).not_after(),
        now() + HOUR
    );
    assert_eq!(
        issue(&authority, "a", DAY * 365, now()).not_after(),
        now() + DAY * 7,
        "the largest lifetime"
    );
    let late = now() + DAY * 28;
    assert_eq!(
        issue(&authority, "a", DAY * 7, late).not_after(),
        now() + DAY * 30,
        "the issuer's end"
    );
    let after = now() + DAY * 30;
    assert!(!authority.is_ready(after));
    let csr = Key::generate().unwrap().csr(&id("a")).unwrap();
    assert_eq!(
        authority.sign(&csr, &id("a"), HOUR, after),
        Err(SignRefusal::SignerExpired)
    );
}

#[test]
fn every_certificate_has_a_serial_of_its_own() {
    let authority = authority();
    let key = Key::generate().unwrap();
    let csr = key.csr(&id("a")).unwrap();
    let serial = || {
        let chain = authority.sign(&csr, &id("a"), HOUR, now()).unwrap();
        key.certify(&chain[..2]).unwrap().leaf().serial().to_owned()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn requests_that_are_refused() {
    let authority = authority();
    let sign = |csr: &str| authority.sign(csr, &id("orders"), HOUR, now());
    let request = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        change(&mut params);
        params
            .serialize_request(&KeyPair::generate().unwrap())
            .unwrap()
            .pem()
            .unwrap()
    };
    let uri = |u: &str| SanType::URI(u.try_into().unwrap());
    let orders = "spiffe://cluster.local/ns/default/sa/orders";

    // No names at all: the identity is attested, not asked for.
    sign(&request(&|_| {})).unwrap();
    sign(&request(&|p| p.subject_alt_names = vec![uri(orders)])).unwrap();
    for names in [
        vec![uri("spiffe://cluster.local/ns/default/sa/admin")],
        vec![
            uri(orders),
            uri("spiffe://cluster.local/ns/other/sa/orders"),
        ],
        vec![
            uri(orders),
            SanType::DnsName("istiod.istio-system.svc".try_into().unwrap()),
        ],
        vec![SanType::IpAddress([127, 0, 0, 1].into())],
        vec![uri("spiffe://cluster.local/ns/default/sa/orders/")],
    ] {
        let refused = sign(&request(&|p| p.subject_alt_names = names.clone()));
        assert!(
            matches!(refused, Err(SignRefusal::OtherName { .. })),
            "{names:?}: {refused:?}"
        );
    }
    let as_ca = request(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(sign(&as_ca), Err(SignRefusal::AsksForCa));

    let good = Key::generate().unwrap().csr(&id("orders")).unwrap();
    let huge = format!("{}{good}", "x".repeat(100_000));
    assert!(matches!(sign(&huge), Err(SignRefusal::TooLarge(_))));
    for broken in [
        "",
        "hello",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        assert!(
            matches!(sign(broken), Err(SignRefusal::Malformed(_))),
            "{broken}"
        );
    }
    assert_eq!(sign(&forge_signature(&good)), Err(SignRefusal::Signature));
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let weak = CertificateParams::default()
        .serialize_request(&p521)
        .unwrap()
        .pem()
        .unwrap();
    assert_eq!(sign(&weak), Err(SignRefusal::Key));

    let stranger = Spiffe::new("other.org", "default", "orders").unwrap();
    assert!(matches!(
        authority.sign(&good, &stranger, HOUR, now()),
        Err(SignRefusal::TrustDomain(_))
    ));
    assert_eq!(
        authority.sign(&good, &id("orders"), Duration::ZERO, now()),
        Err(SignRefusal::Lifetime)
    );
}

/// Flips the last bit of the signature.
fn forge_signature(pem: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let body: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
    let mut der = STANDARD.decode(body).unwrap();
    let last = der.len() - 1;
    der[last] ^= 1;
    format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        STANDARD.encode(der)
    )
}

#[test]
fn the_intermediate_rotates_under_running_peers() {
    let mut authority = authority();
    let clock = Clock::at(now());
    let trust = Trust::new(authority.bundle().unwrap());
    let slot = |authority: &Authority, name, at| Slot::with(issue(authority, name, DAY * 7, at));
    let (orders, users) = (
        slot(&authority, "orders", now()),
        slot(&authority, "users", now()),
    );
    let mut options = ClientOptions::mesh(orders.clone(), trust.clone(), Vec::new());
    options.clock = clock.clone();
    let client = Client::new(options).unwrap();
    let mut options = ServerOptions::mesh(users.clone(), trust);
    options.clock = clock.clone();
    let server = Server::new(options).unwrap();
    let (mut live_client, mut live_server) = connect(&client, &server).unwrap();
    orders.set(issue(&authority, "orders", DAY * 7, now() + DAY * 14));

    assert!(
        !authority.rotate(now() + DAY * 14).unwrap(),
        "before half of its life"
    );
    let old = authority.state().intermediate;
    assert_eq!(authority.next_rotation(), now() + DAY * 15);
    assert!(authority.rotate(now() + DAY * 15).unwrap());
    assert_ne!(authority.state().intermediate, old);
    assert_eq!(
        authority.state().root_created,
        now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    );

    // One side renewed with the new intermediate, the other still on the old one.
    clock.set(now() + DAY * 15);
    users.set(issue(&authority, "users", DAY * 7, now() + DAY * 15));
    connect(&client, &server).unwrap();
    exchange(&mut live_client, &mut live_server);
}

#[test]
fn an_authority_survives_storing_and_notices_mangled_state() {
    let authority = authority();
    let (state, secrets) = (authority.state(), authority.secrets());
    assert!(!format!("{secrets:?}").contains("PRIVATE"));
    let restored = Authority::restore(&state, &secrets, Lifetimes::default()).unwrap();
    assert_eq!(restored.state(), state);
    assert_eq!(restored.fingerprint(), authority.fingerprint());
    let trust = Trust::new(authority.bundle().unwrap());
    let clock = Clock::at(now());
    let slot = Slot::with(issue(&restored, "orders", HOUR, now()));
    let mut options = ServerOptions::mesh(slot.clone(), trust.clone());
    options.clock = clock.clone();
    let server = Server::new(options).unwrap();
    let mut options = ClientOptions::mesh(slot, trust, Vec::new());
    options.clock = clock;
    connect(&Client::new(options).unwrap(), &server).unwrap();

    let other = Authority::create("cluster.local", Lifetimes::default(), now()).unwrap();
    assert!(
        Authority::restore(&state, &other.secrets(), Lifetimes::default()).is_err(),
        "keys of another authority"
    );
    let mut mixed = state.clone();
    mixed.root = other.state().root;
    assert!(
        Authority::restore(&mixed, &secrets, Lifetimes::default()).is_err(),
        "a root the key does not belong to"
    );
    let mut mixed = state.clone();
    mixed.intermediate = "garbage".into();
    let error = Authority::restore(&mixed, &secrets, Lifetimes::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("intermediate") && error.contains("restore the state folder"),
        "{error}"
    );
    assert!(Authority::create("Upper.Case", Lifetimes::default(), now()).is_err());
}

#[test]
fn shorter_lifetimes_hold_from_the_next_start_on() {
    let (state, secrets) = {
        let authority = authority();
        (authority.state(), authority.secrets())
    };
    let short = Lifetimes {
        intermediate: Duration::from_secs(40),
        leaf_max: Duration::from_secs(10),
        ..Lifetimes::default()
    };
    let mut restored = Authority::restore(&state, &secrets, short).unwrap();
    let now = UNIX_EPOCH + Duration::from_secs(state.intermediate_created + 20);
    assert!(
        restored.rotate(now).unwrap(),
        "half of the new life is over"
    );
    assert!(!restored.rotate(now + Duration::from_secs(19)).unwrap());
    assert!(restored.is_ready(now + Duration::from_secs(34)));
    assert!(
        !restored.is_ready(now + Duration::from_secs(36)),
        "an eighth is left"
    );
    assert!(restored.rotate(now + Duration::from_secs(20)).unwrap());
}

#[test]
fn fingerprints_pin_the_root() {
    let authority = authority();
    let bundle = authority.bundle().unwrap();
    let root = bundle
        .roots("cluster.local")
        .unwrap()
        .iter()
        .next()
        .unwrap();
    assert_eq!(root.fingerprint(), authority.fingerprint());
    let text = authority.fingerprint().to_string();
    assert_eq!(text.len(), 64);
    assert_eq!(
        text.parse::<bundle::Fingerprint>().unwrap(),
        authority.fingerprint()
    );
    assert!(text[1..].parse::<bundle::Fingerprint>().is_err());
    let same = bundle::Bundle::from_pem("cluster.local", &format!("{0}{0}", authority.root_pem()))
        .unwrap();
    assert_eq!(same, bundle, "duplicates are dropped");
    assert!(bundle::Bundle::from_pem("cluster.local", "no pem").is_err());
    let mut aliased = bundle;
    aliased.alias("cluster.local", "old.local");
    assert!(Arc::new(aliased).roots("old.local").is_some());
}
