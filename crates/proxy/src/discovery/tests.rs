use std::sync::Arc;

use super::*;
use ripstop_model::seam::HostRecord;
use ripstop_model::snapshot::Fraction;
use ripstop_model::snapshot::cluster::{self, Breakers, LbCommon, LbPolicy, Thresholds};
use ripstop_model::snapshot::endpoint::Endpoints;
use ripstop_model::snapshot::listener::{
    ChainMatch, Direction, FilterChain, Inspect, TcpProxy, Terminal,
};
use ripstop_model::snapshot::route::Split;
use ripstop_model::snapshot::{Cluster, Listener};

fn key(kind: Kind, name: &str) -> Key {
    (kind, name.into())
}

fn listener(name: &str, cluster: &str) -> (Name, Resource) {
    let chain = FilterChain {
        name: "".into(),
        matches: ChainMatch::default(),
        tls: None,
        handshake_timeout: None,
        authz: Vec::new(),
        peer_exchange: false,
        terminal: Terminal::Tcp(Arc::new(TcpProxy {
            stat_prefix: String::new(),
            clusters: Split::One(cluster.into()),
            idle_timeout: None,
            max_connection_duration: None,
            max_connect_attempts: 1,
            hash_source_ip: false,
            access_logs: Vec::new(),
            resource: None,
        })),
    };
    let listener = Listener {
        name: name.into(),
        address: ([127, 0, 0, 1], 1).into(),
        bind: false,
        direction: Direction::Outbound,
        inspect: Inspect {
            original_dst: false,
            tls: false,
            http: false,
            proxy_protocol: false,
            timeout: None,
            continue_on_timeout: false,
        },
        use_original_dst: false,
        chains: vec![Arc::new(chain)],
        default_chain: None,
        buffer_limit: 0,
        access_logs: Vec::new(),
        resource: None,
    };
    (name.into(), Resource::Listener(Arc::new(listener)))
}

fn cluster(name: &str) -> (Name, Resource) {
    let thresholds = Thresholds {
        max_connections: 1,
        max_pending: 1,
        max_requests: 1,
        max_retries: 1,
        retry_budget: None,
    };
    let cluster = Cluster {
        name: name.into(),
        alt_stat_name: None,
        discovery: cluster::Discovery::Eds {
            service_name: name.into(),
        },
        lb: LbPolicy::Random,
        lb_common: LbCommon {
            panic_threshold: Fraction::NEVER,
            locality_weighted: false,
            zones: None,
            subsets: None,
            slow_start: None,
            close_on_host_set_change: false,
        },
        connect_timeout: Duration::from_secs(1),
        breakers: Breakers {
            default: thresholds.clone(),
            high: thresholds,
        },
        outlier: None,
        health_checks: Vec::new(),
        transport: Default::default(),
        protocol: cluster::Protocol::Http1(Default::default()),
        idle_timeout: None,
        max_connection_duration: None,
        max_requests_per_connection: 0,
        keepalive: None,
        buffer_limit: 0,
        service: None,
        resource: None,
    };
    (name.into(), Resource::Cluster(Arc::new(cluster)))
}

fn endpoints(name: &str) -> (Name, Resource) {
    let endpoints = Endpoints {
        name: name.into(),
        groups: Vec::new(),
        overprovisioning: 140,
    };
    (name.into(), Resource::Endpoints(Arc::new(endpoints)))
}

fn subscribed(discovery: &mut Discovery) -> Vec<Key> {
    let added = discovery
        .take_changes()
        .into_iter()
        .map(|change| match change {
            Change::Subscribe(key) => key,
            Change::Unsubscribe(key) => panic!("unsubscribed {key:?}"),
        });
    added.collect()
}

#[test]
fn a_first_use_follows_references_and_waits_for_all_of_them() {
    let now = Instant::now();
    let mut d = Discovery::new(Settings::default());
    let wanted = key(Kind::Listener, "v_80");
    assert!(matches!(d.want(&wanted, now), Readiness::Pending { .. }));
    assert_eq!(subscribed(&mut d), std::slice::from_ref(&wanted));
    assert!(matches!(d.want(&wanted, now), Readiness::Pending { .. }));
    assert_eq!(subscribed(&mut d), [], "asked once");

    assert!(!d.update(vec![listener("v_80", "a")], &[], now));
    assert_eq!(subscribed(&mut d), [key(Kind::Cluster, "a")]);
    assert!(!d.update(vec![cluster("a")], &[], now));
    assert_eq!(subscribed(&mut d), [key(Kind::Endpoints, "a")]);
    assert!(matches!(
        d.readiness(&wanted, now),
        Readiness::Pending { .. }
    ));
    assert!(d.update(vec![endpoints("a")], &[], now));
    assert_eq!(d.readiness(&wanted, now), Readiness::Ready);
    assert_eq!(d.published().clusters.len(), 1);
}

#[test]
fn a_new_version_serves_only_when_what_it_needs_is_there() {
    let now = Instant::now();
    let mut d = Discovery::new(Settings::default());
    let wanted = key(Kind::Listener, "v_80");
    d.hold(wanted.clone(), now);
    d.update(vec![listener("v_80", "a")], &[], now);
    d.update(vec![cluster("a")], &[], now);
    d.update(vec![endpoints("a")], &[], now);
    let before = d.published().listeners[&*wanted.1].clone();

    assert!(!d.update(vec![listener("v_80", "b")], &[], now));
    assert_eq!(
        d.published().listeners[&*wanted.1],
        before,
        "the old version serves"
    );
    d.update(vec![cluster("b")], &[], now);
    d.take_changes();
    assert!(d.update(vec![endpoints("b")], &[], now));
    assert_ne!(d.published().listeners[&*wanted.1], before);
    // The old cluster is let go only after the switch.
    let changes = d.take_changes();
    assert!(
        changes.contains(&Change::Unsubscribe(key(Kind::Cluster, "a"))),
        "{changes:?}"
    );
    assert!(!d.published().clusters.contains_key("a"));
}

#[test]
fn a_missing_cluster_does_not_hold_a_listener_back() {
    let now = Instant::now();
    let mut d = Discovery::new(Settings::default());
    let wanted = key(Kind::Listener, "v_80");
    d.want(&wanted, now);
    d.update(vec![listener("v_80", "a")], &[], now);
    assert!(d.update(Vec::new(), &[key(Kind::Cluster, "a")], now));
    assert_eq!(d.readiness(&wanted, now), Readiness::Ready);
}

#[test]
fn negative_answers_are_believed_for_a_while() {
    let settings = Settings::default();
    let start = Instant::now();
    let mut d = Discovery::new(settings);
    let wanted = key(Kind::Host, "nobody.default.svc.cluster.local");
    d.want(&wanted, start);
    d.take_changes();
    d.update(Vec::new(), std::slice::from_ref(&wanted), start);
    assert_eq!(d.want(&wanted, start), Readiness::Absent);
    assert_eq!(d.take_changes(), []);
    let later = start + settings.negative;
    assert!(matches!(d.want(&wanted, later), Readiness::Pending { .. }));
    assert_eq!(
        d.take_changes(),
        [
            Change::Unsubscribe(wanted.clone()),
            Change::Subscribe(wanted.clone())
        ]
    );
}

#[test]
fn silence_times_out_and_the_next_use_asks_again() {
    let settings = Settings::default();
    let start = Instant::now();
    let mut d = Discovery::new(settings);
    let wanted = key(Kind::Host, "orders");
    let Readiness::Pending { until } = d.want(&wanted, start) else {
        panic!("pending")
    };
    assert_eq!(until, start + settings.wait);
    assert_eq!(d.readiness(&wanted, until), Readiness::TimedOut);
    d.take_changes();
    assert!(matches!(d.want(&wanted, until), Readiness::Pending { .. }));
    assert_eq!(d.take_changes(), [Change::Subscribe(wanted)]);
}

#[test]
fn idle_roots_are_dropped_and_held_ones_are_not() {
    let settings = Settings::default();
    let start = Instant::now();
    let mut d = Discovery::new(settings);
    d.want(&key(Kind::Listener, "used"), start);
    d.hold(key(Kind::Listener, "held"), start);
    d.update(
        vec![listener("used", "a"), listener("held", "b")],
        &[],
        start,
    );
    d.take_changes();
    let later = start + settings.idle;
    d.touch(later, |name| &**name == "used");
    assert!(!d.sweep(later), "connections keep a listener");
    let later = later + settings.idle;
    d.sweep(later);
    let dropped = d.take_changes();
    assert!(dropped.contains(&Change::Unsubscribe(key(Kind::Listener, "used"))));
    assert!(dropped.contains(&Change::Unsubscribe(key(Kind::Cluster, "a"))));
    assert_eq!(dropped.len(), 2);
    // A late answer to a dropped subscription is ignored.
    assert!(!d.update(vec![cluster("a")], &[], later));
}

#[test]
fn with_wildcards_everything_that_arrives_is_kept() {
    let now = Instant::now();
    let mut d = Discovery::new(Settings {
        wildcards: &[Kind::Cluster, Kind::Listener],
        ..Settings::default()
    });
    d.update(vec![cluster("a"), listener("l", "a")], &[], now);
    d.update(vec![endpoints("a")], &[], now);
    assert_eq!(
        (d.published().listeners.len(), d.published().clusters.len()),
        (1, 1)
    );
    d.update(Vec::new(), &[key(Kind::Listener, "l")], now);
    assert_eq!(
        (d.published().listeners.len(), d.published().clusters.len()),
        (0, 1)
    );
}

fn host(name: &str) -> (Name, Resource) {
    let record = HostRecord {
        fqdn: name.into(),
        ..HostRecord::default()
    };
    (name.into(), Resource::Host(Arc::new(record)))
}

#[test]
fn hosts_come_unasked_and_others_are_still_asked_for() {
    let settings = Settings {
        wildcards: &[Kind::Host],
        ..Settings::default()
    };
    let start = Instant::now();
    let mut d = Discovery::new(settings);
    d.update(vec![host("orders"), host("users")], &[], start);
    let (orders, users) = (key(Kind::Host, "orders"), key(Kind::Host, "users"));
    assert_eq!(d.want(&orders, start), Readiness::Ready);
    assert_eq!(d.take_changes(), [], "nobody has to be asked");
    // A name that is not among them.
    let other = key(Kind::Host, "other");
    assert!(matches!(d.want(&other, start), Readiness::Pending { .. }));
    d.update(Vec::new(), std::slice::from_ref(&other), start);
    assert_eq!(d.want(&other, start), Readiness::Absent);
    // An alias is asked for, and let go when nobody asks any more; what came unasked stays.
    let alias = key(Kind::Host, "ip/240.240.0.9");
    d.want(&alias, start);
    d.update(vec![host("ip/240.240.0.9")], &[], start);
    d.take_changes();
    assert!(d.sweep(start + settings.idle));
    let dropped = d.take_changes();
    assert!(dropped.contains(&Change::Unsubscribe(alias)), "{dropped:?}");
    assert_eq!(d.want(&users, start), Readiness::Ready);
    // Taken back.
    d.update(Vec::new(), std::slice::from_ref(&users), start);
    assert!(matches!(d.want(&users, start), Readiness::Pending { .. }));
    assert_eq!(d.want(&orders, start), Readiness::Ready);
}
