use ripstop_telemetry::Stats;

use super::*;
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
