//! Real rustls handshakes in memory: who is accepted, and the one reason for which somebody is not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::pki::{self, Clock, Pki, Spec, connect, connect_named, exchange};
use ripstop_identity::tls::{
    Client, ClientAuth, ClientOptions, Server, ServerOptions, Slot, Versions,
};
use ripstop_identity::verify::{self, Anchors, Demand, Names, Pins, Side, ValidationError};
use ripstop_identity::{Bundle, Certified, Rejection, Trust, alpn};
use ripstop_model::snapshot::matching::StringMatch;
use ripstop_model::snapshot::tls::{Roots, SanKind, SanMatch, Validation};
use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};

const ORDERS: &str = "spiffe://cluster.local/ns/default/sa/orders";
const USERS: &str = "spiffe://cluster.local/ns/default/sa/users";

struct Pair {
    client: Client,
    server: Server,
    client_slot: Arc<Slot>,
    server_slot: Arc<Slot>,
    client_trust: Arc<Trust>,
    server_trust: Arc<Trust>,
    clock: Arc<Clock>,
}

/// Two mesh peers; the client runs as orders and expects users.
fn pair(pki: &Pki, client: &Spec, server: &Spec) -> Pair {
    let clock = Clock::at(pki::now());
    let (client_slot, server_slot) = (
        Slot::with(pki.certify(client)),
        Slot::with(pki.certify(server)),
    );
    let (client_trust, server_trust) = (Trust::new(pki.bundle()), Trust::new(pki.bundle()));
    let mut options = ClientOptions::mesh(
        client_slot.clone(),
        client_trust.clone(),
        vec![verify::uri(USERS)],
    );
    options.clock = clock.clone();
    let client = Client::new(options).unwrap();
    let mut options = ServerOptions::mesh(server_slot.clone(), server_trust.clone());
    options.clock = clock.clone();
    let server = Server::new(options).unwrap();
    Pair {
        client,
        server,
        client_slot,
        server_slot,
        client_trust,
        server_trust,
        clock,
    }
}

fn rejected_client(change: impl FnOnce(&mut Spec)) -> Rejection {
    let pki = Pki::new("cluster.local");
    let mut spec = Spec::new(ORDERS);
    change(&mut spec);
    let pair = pair(&pki, &spec, &Spec::new(USERS));
    connect(&pair.client, &pair.server)
        .expect_err("the server must refuse")
        .server
        .expect("by the server")
}

fn rejected_server(change: impl FnOnce(&mut Spec)) -> Rejection {
    let pki = Pki::new("cluster.local");
    let mut spec = Spec::new(USERS);
    change(&mut spec);
    let pair = pair(&pki, &Spec::new(ORDERS), &spec);
    connect(&pair.client, &pair.server)
        .expect_err("the client must refuse")
        .client
        .expect("by the client")
}

#[test]
fn mesh_peers_know_each_other_over_post_quantum_tls13() {
    let pki = Pki::new("cluster.local");
    let pair = pair(&pki, &Spec::new(ORDERS), &Spec::new(USERS));
    let (client, server) = connect(&pair.client, &pair.server).unwrap();
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(
        client.negotiated_key_exchange_group().map(|g| g.name()),
        Some(NamedGroup::X25519MLKEM768)
    );
    assert_eq!(
        client.handshake_kind(),
        Some(HandshakeKind::Full),
        "no retry: both key shares are sent at once"
    );
    assert_eq!(server.alpn_protocol(), Some(alpn::ISTIO_HTTP_11));
    let seen = pair.server.peer(&server, pki::now()).unwrap().unwrap();
    assert_eq!(seen.spiffe().unwrap().to_string(), ORDERS);
    assert_eq!(seen.principal(), "cluster.local/ns/default/sa/orders");
    let seen = pair.client.peer(&client, &pki::name(), pki::now()).unwrap();
    assert_eq!(seen.uri_sans(), [USERS]);
    assert!(seen.pem().starts_with("-----BEGIN CERTIFICATE-----\nMI"));
    assert!(
        seen.pem_percent_encoded()
            .starts_with("-----BEGIN%20CERTIFICATE-----%0AMI")
    );
    assert_eq!(seen.sha256_hex().len(), 64);
}

#[test]
fn tls12_only_where_asked() {
    let pki = Pki::new("cluster.local");
    let slot = Slot::with(pki.certify(&Spec::new(ORDERS)));
    let mut options = ClientOptions::mesh(slot, Trust::new(pki.bundle()), Vec::new());
    options.versions = Versions::Tls12;
    let client = Client::new(options).unwrap();
    let server_slot = Slot::with(pki.certify(&Spec::new(USERS)));
    let server = Server::new(ServerOptions::mesh(
        server_slot.clone(),
        Trust::new(pki.bundle()),
    ))
    .unwrap();
    assert!(connect(&client, &server).is_err());
    let mut options = ServerOptions::mesh(server_slot, Trust::new(pki.bundle()));
    options.versions = Versions::Tls12And13;
    let server = Server::new(options).unwrap();
    let (client, _) = connect(&client, &server).unwrap();
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_2));
}

#[test]
fn wrong_identity() {
    let rejection =
        rejected_server(|s| s.uris = vec!["spiffe://cluster.local/ns/default/sa/evil".into()]);
    assert!(
        matches!(&rejection, Rejection::UnexpectedIdentity { got } if got.ends_with("evil")),
        "{rejection}"
    );
}

#[test]
fn identity_must_be_the_one_uri_san() {
    let in_common_name = |s: &mut Spec| {
        s.uris.clear();
        s.common_name = Some(ORDERS.into());
    };
    assert_eq!(rejected_client(in_common_name), Rejection::NoIdentity);
    assert_eq!(rejected_server(in_common_name), Rejection::NoIdentity);
    let two = |s: &mut Spec| {
        s.uris
            .push("spiffe://cluster.local/ns/default/sa/admin".into())
    };
    assert_eq!(rejected_client(two), Rejection::ManyIdentities(2));
    assert_eq!(rejected_server(two), Rejection::ManyIdentities(2));
}

#[test]
fn identities_are_spelled_one_way() {
    for uri in [
        "spiffe:///ns/default/sa/orders",
        "spiffe://cluster.local/ns/default/sa/orders/",
        "spiffe://cluster.local/ns/default/../sa/orders",
        "spiffe://cluster.local/ns/default/sa/..",
        "spiffe://cluster.local/ns/default/sa/orders%2f",
        "spiffe://Cluster.Local/ns/default/sa/orders",
        "SPIFFE://cluster.local/ns/default/sa/orders",
        "spiffe://cluster.local/ns/default/sa/orders\0.evil.com",
        "https://cluster.local/ns/default/sa/orders",
        "spiffe://cluster.local/orders",
    ] {
        let rejection = rejected_client(|s| s.uris = vec![uri.into()]);
        assert!(
            matches!(rejection, Rejection::BadIdentity(_)),
            "{uri:?}: {rejection}"
        );
    }
}

#[test]
fn wrong_trust_domain() {
    let other = |s: &mut Spec| s.uris = vec!["spiffe://other.org/ns/default/sa/orders".into()];
    assert_eq!(
        rejected_client(other),
        Rejection::TrustDomain("other.org".into())
    );
    assert_eq!(
        rejected_server(other),
        Rejection::TrustDomain("other.org".into())
    );
}

#[test]
fn a_trust_domain_is_held_to_its_own_roots() {
    let (ours, theirs) = (Pki::new("cluster.local"), Pki::new("other.org"));
    let mut both = ours.bundle();
    both.insert(
        "other.org",
        theirs.bundle().roots("other.org").unwrap().clone(),
    );
    // Their authority certifies a name of ours.
    let pair = pair(&ours, &Spec::new(ORDERS), &Spec::new(USERS));
    pair.server_trust.replace(both.clone());
    pair.client_slot.set(theirs.certify(&Spec::new(ORDERS)));
    let refused = connect(&pair.client, &pair.server).unwrap_err();
    assert_eq!(refused.server, Some(Rejection::UnknownRoot));
    // Under their own name they are welcome.
    pair.client_slot
        .set(theirs.certify(&Spec::new("spiffe://other.org/ns/a/sa/b")));
    connect(&pair.client, &pair.server).unwrap();
}

#[test]
fn unknown_root_and_missing_intermediate() {
    let pki = Pki::new("cluster.local");
    let pair = pair(&pki, &Spec::new(ORDERS), &Spec::new(USERS));
    pair.server_trust
        .replace(Pki::new("cluster.local").bundle());
    assert_eq!(
        connect(&pair.client, &pair.server).unwrap_err().server,
        Some(Rejection::UnknownRoot)
    );
    assert_eq!(
        rejected_client(|s| s.without_intermediate = true),
        Rejection::UnknownRoot
    );
}

#[test]
fn validity_in_time() {
    let second = Duration::from_secs(1);
    let rejection = rejected_client(|s| s.not_after = pki::now() - second);
    assert_eq!(rejection, Rejection::Expired(1));
    assert_eq!(
        rejected_server(|s| s.not_after = pki::now() - second),
        Rejection::Expired(1)
    );
    assert_eq!(
        rejected_client(|s| s.not_before = pki::now() + second * 300),
        Rejection::NotYetValid(300)
    );
    // Within the tolerated skew.
    let pki = Pki::new("cluster.local");
    let mut young = Spec::new(ORDERS);
    young.not_before = pki::now() + second * 30;
    let pair = pair(&pki, &young, &Spec::new(USERS));
    connect(&pair.client, &pair.server).unwrap();
}

#[test]
fn extended_key_usage_of_the_right_side() {
    use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    assert_eq!(
        rejected_client(|s| s.usages = vec![ServerAuth]),
        Rejection::KeyUsage
    );
    assert_eq!(
        rejected_server(|s| s.usages = vec![ClientAuth]),
        Rejection::KeyUsage
    );
    assert_eq!(rejected_client(|s| s.usages = vec![]), Rejection::KeyUsage);
}

#[test]
fn ca_certificates_and_chains() {
    assert_eq!(rejected_client(|s| s.is_ca = true), Rejection::CaAsLeaf);
    assert_eq!(rejected_server(|s| s.is_ca = true), Rejection::CaAsLeaf);
    // A leaf that certifies another leaf, and a CA below one whose path length is zero.
    assert_eq!(
        rejected_client(|s| s.below = Some(pki::Below::Leaf)),
        Rejection::IssuerNotCa
    );
    assert_eq!(
        rejected_client(|s| s.below = Some(pki::Below::SecondIntermediate)),
        Rejection::IssuerNotCa
    );
    assert_eq!(
        rejected_client(|s| s.below = Some(pki::Below::ExpiredIntermediate)),
        Rejection::IssuerExpired
    );
    let outside = |s: &mut Spec| {
        s.below = Some(pki::Below::ConstrainedTo("good.com"));
        s.dns = vec!["evil.com".into()];
    };
    assert_eq!(rejected_client(outside), Rejection::NameConstraint);
}

#[test]
fn weak_keys_and_signatures() {
    assert_eq!(
        rejected_client(|s| s.key = &rcgen::PKCS_ECDSA_P521_SHA512),
        Rejection::WeakKey
    );
    // No library here makes RSA-1024 keys or SHA-1 signatures, so those two are judged without a handshake.
    let pki = Pki::new("cluster.local");
    let rsa =
        rcgen::SubjectPublicKeyInfo::from_pem(include_str!("testdata/rsa1024-public.pem")).unwrap();
    let chain = pki.chain_for(&Spec::new(ORDERS), &rsa);
    let demand = |bundle| Demand::Mesh {
        trust: Trust::new(bundle),
        identities: Vec::new(),
    };
    let judged = demand(pki.bundle()).check(&chain, Side::Client, None, pki::now());
    assert_eq!(judged, Err(Rejection::WeakKey));
    let bundle = Bundle::from_pem("cluster.local", include_str!("testdata/sha1-root.pem")).unwrap();
    let leaf = pki::der(include_str!("testdata/sha1-leaf.pem"));
    let judged = demand(bundle).check(&[leaf], Side::Client, None, SystemTime::now());
    assert_eq!(judged, Err(Rejection::Algorithm));
}

#[test]
fn chains_are_bounded() {
    let pki = Pki::new("cluster.local");
    let key = rcgen::KeyPair::generate().unwrap();
    let mut chain = pki.chain_for(&Spec::new(ORDERS), &key);
    chain.extend(vec![chain[1].clone(); 20]);
    let demand = Demand::Mesh {
        trust: Trust::new(pki.bundle()),
        identities: Vec::new(),
    };
    assert_eq!(
        demand.check(&chain, Side::Client, None, pki::now()),
        Err(Rejection::ChainTooLong(22))
    );
}

#[test]
fn client_certificates_are_required_or_optional() {
    let pki = Pki::new("cluster.local");
    let trust = Trust::new(pki.bundle());
    let mut options = ClientOptions::mesh(Slot::empty(), trust.clone(), Vec::new());
    options.certificate = None;
    let anonymous = Client::new(options).unwrap();
    let slot = Slot::with(pki.certify(&Spec::new(USERS)));
    let strict = Server::new(ServerOptions::mesh(slot.clone(), trust.clone())).unwrap();
    assert_eq!(
        connect(&anonymous, &strict).unwrap_err().server,
        Some(Rejection::NoCertificate)
    );
    let permissive = Server::new(ServerOptions::mesh_optional(slot, trust.clone())).unwrap();
    let (_, server) = connect(&anonymous, &permissive).unwrap();
    assert!(permissive.peer(&server, pki::now()).unwrap().is_none());
    // Optional is not lenient: a certificate that is shown must verify.
    let mut bad = Spec::new(ORDERS);
    bad.uris.push(USERS.into());
    let options = ClientOptions::mesh(Slot::with(pki.certify(&bad)), trust, Vec::new());
    let refused = connect(&Client::new(options).unwrap(), &permissive).unwrap_err();
    assert_eq!(refused.server, Some(Rejection::ManyIdentities(2)));
}

#[test]
fn sessions_resume_until_trust_or_certificates_change() {
    let pki = Pki::new("cluster.local");
    let pair = pair(&pki, &Spec::new(ORDERS), &Spec::new(USERS));
    let kind = |pair: &Pair| {
        let (mut client, mut server) = connect(&pair.client, &pair.server).unwrap();
        exchange(&mut client, &mut server);
        let now = pair.clock.now();
        pair.client.peer(&client, &pki::name(), now).unwrap();
        assert!(
            pair.server.peer(&server, now).unwrap().is_some(),
            "a resumed session still has its peer"
        );
        client.handshake_kind().unwrap()
    };
    assert_eq!(kind(&pair), HandshakeKind::Full);
    assert_eq!(kind(&pair), HandshakeKind::Resumed);
    // Another root is added: the server forgets its sessions.
    let mut wider = pki.bundle();
    wider.insert(
        "other.org",
        Pki::new("other.org")
            .bundle()
            .roots("other.org")
            .unwrap()
            .clone(),
    );
    assert!(pair.server_trust.replace(wider.clone()));
    assert!(
        !pair.server_trust.replace(wider),
        "an equal bundle is no change"
    );
    assert_eq!(kind(&pair), HandshakeKind::Full);
    assert_eq!(kind(&pair), HandshakeKind::Resumed);
    // The client's certificate is renewed: it forgets its tickets.
    pair.client_slot.set(pki.certify(&Spec::new(ORDERS)));
    assert_eq!(kind(&pair), HandshakeKind::Full);
    // Tickets of handshakes that began before may still come: none is kept until they must have.
    assert_eq!(kind(&pair), HandshakeKind::Full);
    pair.clock.set(pki::now() + Duration::from_secs(60));
    assert_eq!(kind(&pair), HandshakeKind::Full);
    // And the server's.
    assert_eq!(kind(&pair), HandshakeKind::Resumed);
    pair.server_slot.set(pki.certify(&Spec::new(USERS)));
    assert_eq!(kind(&pair), HandshakeKind::Full);
}

#[test]
fn a_ticket_that_comes_after_a_renewal_is_not_used() {
    let pki = Pki::new("cluster.local");
    let pair = pair(&pki, &Spec::new(ORDERS), &Spec::new(USERS));
    let (mut client, mut server) = connect(&pair.client, &pair.server).unwrap();
    pair.client_slot.set(pki.certify(&Spec::new(ORDERS)));
    // The ticket comes along with the server's first bytes.
    exchange(&mut client, &mut server);
    let (client, _) = connect(&pair.client, &pair.server).unwrap();
    assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn a_removed_root_ends_resumption() {
    let pki = Pki::new("cluster.local");
    let pair = pair(&pki, &Spec::new(ORDERS), &Spec::new(USERS));
    let (mut client, mut server) = connect(&pair.client, &pair.server).unwrap();
    exchange(&mut client, &mut server);
    pair.server_trust
        .replace(Pki::new("cluster.local").bundle());
    assert_eq!(
        connect(&pair.client, &pair.server).unwrap_err().server,
        Some(Rejection::UnknownRoot)
    );
    let (mut client, mut server) = {
        pair.server_trust.replace(pki.bundle());
        connect(&pair.client, &pair.server).unwrap()
    };
    exchange(&mut client, &mut server);
    pair.client_trust
        .replace(Pki::new("cluster.local").bundle());
    assert_eq!(
        connect(&pair.client, &pair.server).unwrap_err().client,
        Some(Rejection::UnknownRoot)
    );
}

#[test]
fn a_resumed_session_does_not_outlive_the_certificates() {
    let pki = Pki::new("cluster.local");
    let mut short = Spec::new(ORDERS);
    short.not_after = pki::now() + Duration::from_secs(600);
    let pair = pair(&pki, &short, &Spec::new(USERS));
    let (mut client, mut server) = connect(&pair.client, &pair.server).unwrap();
    exchange(&mut client, &mut server);
    pair.clock.set(pki::now() + Duration::from_secs(900));
    let (client, server) = connect(&pair.client, &pair.server).unwrap();
    assert_eq!(client.handshake_kind(), Some(HandshakeKind::Resumed));
    let judged = pair.server.peer(&server, pair.clock.now());
    assert_eq!(judged.unwrap_err(), Rejection::Expired(300));
}

#[test]
fn a_client_judges_a_resumed_server_again() {
    let pki = Pki::new("cluster.local");
    let mut short = Spec::new(USERS);
    short.not_after = pki::now() + Duration::from_secs(600);
    let pair = pair(&pki, &Spec::new(ORDERS), &short);
    let (mut client, mut server) = connect(&pair.client, &pair.server).unwrap();
    exchange(&mut client, &mut server);
    pair.clock.set(pki::now() + Duration::from_secs(900));
    let (client, _) = connect(&pair.client, &pair.server).unwrap();
    let judged = pair.client.peer(&client, &pki::name(), pair.clock.now());
    assert_eq!(judged.unwrap_err(), Rejection::Expired(300));
}

#[test]
fn live_connections_survive_rotation() {
    let pki = Pki::new("cluster.local");
    let pair = pair(&pki, &Spec::new(ORDERS), &Spec::new(USERS));
    let (mut client, mut server) = connect(&pair.client, &pair.server).unwrap();
    for _ in 0..10 {
        pair.client_slot.set(pki.certify(&Spec::new(ORDERS)));
        pair.server_slot.set(pki.certify(&Spec::new(USERS)));
        exchange(&mut client, &mut server);
        connect(&pair.client, &pair.server).unwrap();
    }
}

#[test]
fn outside_servers_are_verified_by_name() {
    let pki = Pki::new("web");
    let mut spec = Spec::new("https://ignored.example/");
    spec.dns = vec!["api.example.com".into(), "*.wild.example.com".into()];
    spec.usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let mut options = ServerOptions::plain(Slot::with(pki.certify(&spec)));
    options.versions = Versions::Tls12And13;
    let server = Server::new(options).unwrap();
    let roots = Arc::new(pki.bundle().roots("web").unwrap().clone());
    let client = |names: Names| {
        let demand = Demand::Roots {
            roots: roots.clone(),
            names,
            pins: Pins::default(),
        };
        Client::new(ClientOptions::outside(demand, None)).unwrap()
    };
    let verifying = client(Names::ServerName);
    connect_named(&verifying, &server, "api.example.com").unwrap();
    connect_named(&verifying, &server, "a.wild.example.com").unwrap();
    let refused = connect_named(&verifying, &server, "www.example.com").unwrap_err();
    assert_eq!(
        refused.client,
        Some(Rejection::WrongName("www.example.com".into()))
    );
    connect_named(&client(Names::Unchecked), &server, "www.example.com").unwrap();
    let any = |value: &str| {
        client(Names::Any(vec![SanMatch {
            kind: SanKind::Dns,
            value: StringMatch::exact(value),
        }]))
    };
    connect_named(&any("API.example.com"), &server, "x.test").unwrap();
    connect_named(&any("b.wild.example.com"), &server, "x.test").unwrap();
    assert!(matches!(
        connect_named(&any("c.b.wild.example.com"), &server, "x.test")
            .unwrap_err()
            .client,
        Some(Rejection::UnexpectedIdentity { .. })
    ));
    let skip = Client::new(ClientOptions::outside(Demand::Nothing, None)).unwrap();
    connect_named(&skip, &server, "www.example.com").unwrap();
    let other = Arc::new(Pki::new("web").bundle().roots("web").unwrap().clone());
    let demand = Demand::Roots {
        roots: other,
        names: Names::ServerName,
        pins: Pins::default(),
    };
    let distrusting = Client::new(ClientOptions::outside(demand, None)).unwrap();
    let refused = connect_named(&distrusting, &server, "api.example.com").unwrap_err();
    assert_eq!(refused.client, Some(Rejection::UnknownRoot));
}

#[test]
fn mutual_tls_from_a_static_bootstrap() {
    let pki = Pki::new("corp");
    let (chain, key) = pki.pem_pair(&Spec::new("spiffe://corp/ns/a/sa/b"));
    let slot = Slot::with(Certified::from_pem(&chain, &key).unwrap());
    let roots = Arc::new(pki.bundle().roots("corp").unwrap().clone());
    let prefix = SanMatch {
        kind: SanKind::Uri,
        value: StringMatch::prefix("spiffe://corp/"),
    };
    let demand = |pins| Demand::Roots {
        roots: roots.clone(),
        names: Names::Any(vec![prefix.clone()]),
        pins,
    };
    let mut options = ServerOptions::plain(slot.clone());
    options.client = ClientAuth::Required(demand(Pins::default()));
    let server = Server::new(options).unwrap();
    let pinned = |digest: [u8; 32]| {
        let pins = Pins {
            certificates: vec![digest],
            public_keys: vec![],
        };
        Client::new(ClientOptions::outside(demand(pins), Some(slot.clone()))).unwrap()
    };
    let right = *slot.current().unwrap().leaf().sha256();
    connect(&pinned(right), &server).unwrap();
    assert_eq!(
        connect(&pinned([0; 32]), &server).unwrap_err().client,
        Some(Rejection::NotPinned)
    );
    let (_, other_key) = pki.pem_pair(&Spec::new("spiffe://corp/ns/a/sa/b"));
    assert!(Certified::from_pem(&chain, &other_key).is_err());
}

#[test]
fn istio_server_names_are_accepted() {
    let pki = Pki::new("cluster.local");
    let pair = pair(&pki, &Spec::new(ORDERS), &Spec::new(USERS));
    for name in [
        "outbound_.80_._.users.default.svc.cluster.local",
        "outbound_.8080_.v1_.users.default.svc.cluster.local",
    ] {
        let (_, server) = connect_named(&pair.client, &pair.server, name).unwrap();
        assert_eq!(server.server_name(), Some(name));
    }
}

#[test]
fn every_rejection_has_its_own_token() {
    let all = [
        Rejection::NoCertificate,
        Rejection::Malformed(String::new()),
        Rejection::ChainTooLong(0),
        Rejection::Expired(0),
        Rejection::NotYetValid(0),
        Rejection::IssuerExpired,
        Rejection::UnknownRoot,
        Rejection::NoIdentity,
        Rejection::ManyIdentities(2),
        Rejection::BadIdentity(String::new()),
        Rejection::TrustDomain(String::new()),
        Rejection::UnexpectedIdentity { got: String::new() },
        Rejection::WrongName(String::new()),
        Rejection::KeyUsage,
        Rejection::CaAsLeaf,
        Rejection::IssuerNotCa,
        Rejection::NameConstraint,
        Rejection::BadSignature,
        Rejection::Algorithm,
        Rejection::WeakKey,
        Rejection::Revoked,
        Rejection::NotPinned,
        Rejection::Chain(String::new()),
    ];
    let tokens: std::collections::BTreeSet<_> = all.iter().map(Rejection::as_str).collect();
    assert_eq!(tokens.len(), all.len());
}

#[test]
fn xds_validation_contexts() {
    let context = |hashes: &[&str], spki: &[&str], sans: Vec<SanMatch>| Validation {
        roots: Roots::System,
        sans,
        host_name: true,
        certificate_hashes: hashes.iter().map(|h| (*h).to_owned()).collect(),
        spki_hashes: spki.iter().map(|h| (*h).to_owned()).collect(),
        accept_untrusted: false,
    };
    let pki = Pki::new("corp");
    let roots = || Anchors::Roots(Arc::new(pki.bundle().roots("corp").unwrap().clone()));
    let mesh = || Anchors::Mesh(Trust::new(pki.bundle()));
    let colons = "AA:".repeat(31) + "AA";
    let pinned = Demand::of_validation(&context(&[&colons], &[], vec![]), roots()).unwrap();
    let Demand::Roots {
        names: Names::ServerName,
        pins,
        ..
    } = pinned
    else {
        panic!("{pinned:?}")
    };
    assert_eq!(pins.certificates, [[0xaa; 32]]);
    for (bad, anchors, want) in [
        (
            context(&["xyz"], &[], vec![]),
            roots(),
            ValidationError::CertificateHash("xyz".into()),
        ),
        (
            context(&[], &["xyz"], vec![]),
            roots(),
            ValidationError::SpkiHash("xyz".into()),
        ),
        (
            context(&[&colons], &[], vec![]),
            mesh(),
            ValidationError::HashesInMesh,
        ),
        (
            context(&[], &[], vec![verify::uri("a")]),
            Anchors::None,
            ValidationError::NamesWithoutRoots,
        ),
    ] {
        assert_eq!(Demand::of_validation(&bad, anchors).unwrap_err(), want);
    }
    let none = Demand::of_validation(&context(&[], &[], vec![]), Anchors::None).unwrap();
    assert!(matches!(none, Demand::Nothing));
    let mesh = Demand::of_validation(&context(&[], &[], vec![verify::uri("a")]), mesh()).unwrap();
    assert!(matches!(mesh, Demand::Mesh { identities, .. } if identities.len() == 1));
}

#[test]
fn several_certificates_are_chosen_by_name() {
    let pki = Pki::new("web");
    let slot = |dns: &str| {
        let mut spec = Spec::new("https://ignored.example/");
        spec.dns = vec![dns.into()];
        Slot::with(pki.certify(&spec))
    };
    let mut options = ServerOptions::plain(slot("a.example.com"));
    options.more = vec![Slot::empty(), slot("*.b.example.com")];
    let server = Server::new(options).unwrap();
    let roots = Arc::new(pki.bundle().roots("web").unwrap().clone());
    let demand = |names| Demand::Roots {
        roots: roots.clone(),
        names,
        pins: Pins::default(),
    };
    let client = Client::new(ClientOptions::outside(demand(Names::ServerName), None)).unwrap();
    connect_named(&client, &server, "a.example.com").unwrap();
    connect_named(&client, &server, "x.b.example.com").unwrap();
    let careless = Client::new(ClientOptions::outside(demand(Names::Unchecked), None)).unwrap();
    let (client, _) = connect_named(&careless, &server, "other.test").unwrap();
    let name = rustls_pki_types::ServerName::try_from("other.test").unwrap();
    let peer = careless.peer(&client, &name, pki::now()).unwrap();
    assert_eq!(
        peer.dns_sans(),
        ["a.example.com"],
        "the first serves the rest"
    );
}

#[test]
fn alpn_is_chosen_for_what_is_carried() {
    let pki = Pki::new("cluster.local");
    let trust = Trust::new(pki.bundle());
    let mut options =
        ServerOptions::mesh(Slot::with(pki.certify(&Spec::new(USERS))), trust.clone());
    options.alpn = alpn::list(alpn::INBOUND);
    let server = Server::new(options).unwrap();
    for (offer, carried) in [
        (alpn::MESH_HTTP1, alpn::Carried::Http1),
        (alpn::MESH_HTTP2, alpn::Carried::Http2),
        (alpn::MESH_TCP, alpn::Carried::TcpWithMetadata),
        (&[alpn::ISTIO], alpn::Carried::Tcp),
    ] {
        let slot = Slot::with(pki.certify(&Spec::new(ORDERS)));
        let mut options = ClientOptions::mesh(slot, trust.clone(), Vec::new());
        options.alpn = alpn::list(offer);
        let (client, _) = connect(&Client::new(options).unwrap(), &server).unwrap();
        let token = client.alpn_protocol().unwrap();
        assert!(alpn::is_mesh(token));
        assert_eq!(alpn::carried(token), Some(carried));
    }
}
