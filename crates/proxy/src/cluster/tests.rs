use ripstop_telemetry::Stats;

use super::*;
use crate::balance;
use crate::pool::Ticket;
use crate::tls::Secrets;

/// A cluster with members at these ports of loopback.
fn cluster(kind: &str, close: bool) -> Arc<Cluster> {
    let text = format!(
        "static_resources:\n  clusters:\n  - name: c\n    type: {kind}\n    common_lb_config: \
         {{close_connections_on_host_set_change: {close}}}\n    load_assignment: {{cluster_name: c}}\n"
    );
    let parsed = ripstop_wire::bootstrap::parse(&text).unwrap();
    let config = parsed.clusters[0].clone();
    Arc::new(Cluster::new(
        config,
        None,
        &Stats::default(),
        &Secrets::new(None),
        None,
    ))
}

fn members(ports: &[u16]) -> Arc<Endpoints> {
    let ends: Vec<String> = ports
        .iter()
        .map(|port| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}"
            )
        })
        .collect();
    let ends = ends.join(", ");
    let text = format!(
        "static_resources:\n  clusters:\n  - name: c\n    load_assignment: {{cluster_name: c, endpoints: \
         [{{lb_endpoints: [{ends}]}}]}}\n"
    );
    let parsed = ripstop_wire::bootstrap::parse(&text).unwrap();
    match &parsed.clusters[0].discovery {
        Discovery::Static(endpoints) => endpoints.clone(),
        other => panic!("{other:?}"),
    }
}

fn at(port: u16) -> Target {
    Target::Socket(([127, 0, 0, 1], port).into())
}

/// Whether a connection that was opened among `before` is kept for another request among `after`.
fn stays(cluster: &Arc<Cluster>, before: &[u16], after: &[u16], port: u16) -> bool {
    cluster.replace(members(before));
    let mut ticket = Ticket::new(cluster.clone(), false, None);
    assert!(ticket.stays(&at(port)), "nothing has changed yet");
    cluster.replace(members(after));
    let first = ticket.stays(&at(port));
    if first {
        assert!(ticket.stays(&at(port)), "asked again of the same members");
    }
    first
}

#[test]
fn connections_to_members_that_left_are_not_kept() {
    let cluster = cluster("STATIC", false);
    assert!(stays(&cluster, &[1, 2], &[2, 3], 2));
    assert!(!stays(&cluster, &[1, 2], &[2, 3], 1));
}

#[test]
fn any_change_of_members_closes_connections_where_that_is_wanted() {
    let closing = cluster("STATIC", true);
    assert!(!stays(&closing, &[1, 2], &[1, 2, 3], 1));
    assert!(stays(&closing, &[1, 2], &[1, 2], 1), "no change is none");
}

#[test]
fn who_is_found_by_address_alone_stays() {
    assert!(stays(&cluster("ORIGINAL_DST", true), &[1], &[2], 1));
}

#[test]
fn a_member_that_comes_later_is_new() {
    let cluster = cluster("STATIC", false);
    cluster.replace(members(&[1]));
    std::thread::sleep(Duration::from_millis(20));
    cluster.replace(members(&[1, 2]));
    let now = uptime();
    let ages: Vec<Duration> = cluster
        .roster()
        .members()
        .map(|member| member.load.age(now))
        .collect();
    assert!(ages[0] >= ages[1] + Duration::from_millis(20), "{ages:?}");
}

/// A cluster of names `own` or `other` with one member in each zone.
fn zoned(name: &str, more: &str, zones: Option<&Arc<Zones>>) -> Arc<Cluster> {
    let text = format!(
        "static_resources:\n  clusters:\n  - name: {name}\n    {more}\n    common_lb_config: {{zone_aware_lb_config: \
         {{min_cluster_size: 1}}}}\n    load_assignment: {{cluster_name: {name}, endpoints: [{}, {}]}}\n",
        in_zone("here", 1),
        in_zone("there", 2),
    );
    let parsed = ripstop_wire::bootstrap::parse(&text).unwrap_or_else(|error| panic!("{error}"));
    Arc::new(Cluster::new(
        parsed.clusters[0].clone(),
        None,
        &Stats::default(),
        &Secrets::new(None),
        zones,
    ))
}

fn in_zone(zone: &str, port: u16) -> String {
    format!(
        "{{locality: {{zone: {zone}}}, lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}"
    )
}

/// The proxies' own cluster counts as soon as its members are known, whatever balances it; it is hardly ever asked to.
#[test]
fn the_local_cluster_is_followed_whatever_its_balancer() {
    for policy in ["ROUND_ROBIN", "RING_HASH", "MAGLEV"] {
        let zones = Arc::new(Zones::new(ripstop_model::snapshot::Local {
            cluster: "own".into(),
            locality: ripstop_model::snapshot::Locality {
                zone: "here".into(),
                ..Default::default()
            },
        }));
        let lb = format!("lb_policy: {policy}");
        // Known later, as by EDS.
        let eds = format!("{lb}\n    type: STRICT_DNS");
        let own = zoned("own", &eds, Some(&zones));
        let other = zoned("other", "lb_policy: ROUND_ROBIN", Some(&zones));
        let mut balance = other.balance();
        let mut here = || {
            let mut draws = 0..;
            let mut draw = || draws.next().unwrap_or_default();
            let picks = (0..20).filter(|_| {
                let mut ask = balance::Ask::new(Default::default(), Duration::ZERO, &mut draw);
                let picked = balance.pick(&other.roster(), &mut ask).unwrap();
                picked.member.locality.zone == "here"
            });
            picks.count()
        };
        own.replace(members(&[]));
        assert_eq!(here(), 10, "{policy}: nobody is known");
        let found = zoned("own", &lb, None);
        let Discovery::Static(endpoints) = &found.config.discovery else {
            panic!("{:?}", found.config.discovery);
        };
        own.replace(endpoints.clone());
        assert_eq!(here(), 20, "{policy}");
    }
}
