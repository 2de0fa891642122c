//! Client and server against each other, without I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use ripstop_model::discovery::{Kind, Resource};
use ripstop_model::seam::HostRecord;
use ripstop_model::snapshot::Name;

use super::client::{Client, Update};
use super::server::{Event, Session, View};
use super::*;
use crate::resource::{Encoded, version};
use crate::xds::host::{encode_host, encode_ranges};

#[derive(Default)]
struct World(BTreeMap<(Kind, Name), Encoded>);

impl World {
    fn host(&mut self, name: &str, headless: bool) {
        let bytes = encode_host(&HostRecord {
            fqdn: name.into(),
            headless,
            ..HostRecord::default()
        });
        self.put(Kind::Host, name, bytes);
    }

    fn put(&mut self, kind: Kind, name: &str, bytes: Vec<u8>) {
        let encoded = Encoded {
            name: name.into(),
            version: version(&bytes),
            bytes: bytes.into(),
        };
        self.0.insert((kind, name.into()), encoded);
    }
}

impl View for World {
    fn resource(&mut self, kind: Kind, name: &Name) -> Option<Encoded> {
        self.0.get(&(kind, name.clone())).cloned()
    }
    fn names(&mut self, kind: Kind) -> Vec<Name> {
        self.0
            .keys()
            .filter(|(k, _)| *k == kind)
            .map(|(_, name)| name.clone())
            .collect()
    }
}

/// Lets both talk until neither has anything to say.
fn settle(
    client: &mut Client,
    session: &mut Session,
    world: &mut World,
) -> (Vec<Update>, Vec<Event>) {
    let (mut updates, mut events) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let mut quiet = true;
        while let Some(request) = client.next_request() {
            quiet = false;
            events.extend(session.receive(request));
        }
        while let Some(response) = session.next_response(world) {
            quiet = false;
            updates.push(client.receive(response));
        }
        if quiet {
            return (updates, events);
        }
    }
    panic!("client and server never fell silent");
}

fn key(kind: Kind, name: &str) -> (Kind, Name) {
    (kind, name.into())
}

fn names(updates: &[Update]) -> (Vec<String>, Vec<String>) {
    let arrived = updates
        .iter()
        .flat_map(|u| &u.arrived)
        .map(|(name, _)| name.to_string())
        .collect();
    let removed = updates
        .iter()
        .flat_map(|u| &u.removed)
        .map(|(_, name)| name.to_string())
        .collect();
    (arrived, removed)
}

#[test]
fn delta_says_what_changed_and_what_is_not_there() {
    let mut world = World::default();
    world.host("a", false);
    let mut client = Client::new(Node::default(), Protocol::Delta);
    let mut session = Session::new(Protocol::Delta);
    client.connected();
    client.subscribe(key(Kind::Host, "a"));
    client.subscribe(key(Kind::Host, "nobody"));
    let (updates, events) = settle(&mut client, &mut session, &mut world);
    assert_eq!(names(&updates), (vec!["a".into()], vec!["nobody".into()]));
    assert!(
        matches!(&events[0], Event::Subscribed { kind: Kind::Host, names } if names.len() == 2)
    );
    assert!(matches!(&events[1], Event::Acknowledged { resources, .. } if resources.len() == 1));

    assert!(
        settle(&mut client, &mut session, &mut world).0.is_empty(),
        "nothing changed"
    );
    world.host("a", true);
    world.host("nobody", false);
    let (updates, _) = settle(&mut client, &mut session, &mut world);
    assert_eq!(names(&updates).0, ["a", "nobody"]);
    world.0.remove(&key(Kind::Host, "a"));
    let (updates, _) = settle(&mut client, &mut session, &mut world);
    assert_eq!(names(&updates).1, ["a"]);

    client.unsubscribe(&key(Kind::Host, "nobody"));
    let (_, events) = settle(&mut client, &mut session, &mut world);
    assert_eq!(
        events,
        [Event::Unsubscribed {
            kind: Kind::Host,
            names: vec!["nobody".into()]
        }]
    );
    world.host("nobody", true);
    assert!(settle(&mut client, &mut session, &mut world).0.is_empty());
}

#[test]
fn a_new_stream_tells_only_the_difference() {
    let mut world = World::default();
    world.host("a", false);
    world.host("b", false);
    let mut client = Client::new(
        Node {
            id: "n".into(),
            ..Node::default()
        },
        Protocol::Delta,
    );
    let mut session = Session::new(Protocol::Delta);
    client.connected();
    for name in ["a", "b", "c"] {
        client.subscribe(key(Kind::Host, name));
    }
    settle(&mut client, &mut session, &mut world);
    client.disconnected();
    assert!(client.next_request().is_none());

    world.host("b", true);
    world.host("c", true);
    let mut session = Session::new(Protocol::Delta);
    client.connected();
    let first = client.next_request().unwrap();
    assert_eq!(first.node.as_ref().unwrap().id, "n");
    session.receive(first);
    let response = session.next_response(&mut world).unwrap();
    let told: Vec<&str> = response.resources.iter().map(|r| &*r.name).collect();
    assert_eq!(told, ["b", "c"]);
    assert!(response.removed.is_empty());
}

#[test]
fn a_bad_resource_is_rejected_and_the_good_one_beside_it_is_used() {
    let mut world = World::default();
    world.host("good", false);
    world.put(Kind::Host, "bad", vec![0xff, 0xff, 0xff]);
    let mut client = Client::new(Node::default(), Protocol::Delta);
    let mut session = Session::new(Protocol::Delta);
    client.connected();
    client.subscribe(key(Kind::Host, "good"));
    client.subscribe(key(Kind::Host, "bad"));
    let (updates, events) = settle(&mut client, &mut session, &mut world);
    assert_eq!(names(&updates).0, ["good"]);
    assert_eq!(updates[0].rejected[0].name, "bad".into());
    let rejected = events.iter().find_map(|event| match event {
        Event::Rejected {
            message, resources, ..
        } => Some((message, resources.len())),
        _ => None,
    });
    let (message, sent) = rejected.unwrap();
    assert!(message.starts_with("Host bad: "), "{message}");
    assert_eq!(sent, 2);
    assert!(
        settle(&mut client, &mut session, &mut world).0.is_empty(),
        "not sent again until it changes"
    );
}

#[test]
fn the_state_of_the_world_is_complete_each_time() {
    let mut world = World::default();
    world.host("a", false);
    world.host("b", false);
    let mut client = Client::new(Node::default(), Protocol::Full);
    let mut session = Session::new(Protocol::Full);
    client.connected();
    client.subscribe(key(Kind::Host, "a"));
    client.subscribe(key(Kind::Host, "b"));
    assert_eq!(
        names(&settle(&mut client, &mut session, &mut world).0).0,
        ["a", "b"]
    );
    world.host("b", true);
    assert_eq!(
        names(&settle(&mut client, &mut session, &mut world).0).0,
        ["a", "b"]
    );
    client.unsubscribe(&key(Kind::Host, "b"));
    let (_, events) = settle(&mut client, &mut session, &mut world);
    assert_eq!(
        events,
        [Event::Unsubscribed {
            kind: Kind::Host,
            names: vec!["b".into()]
        }]
    );
}

#[test]
fn a_wildcard_covers_what_comes_later() {
    for protocol in [Protocol::Delta, Protocol::Full] {
        let mut session = Session::new(protocol);
        let mut client = Client::new(Node::default(), protocol);
        let mut world = World::default();
        client.connected();
        client.subscribe_all(Kind::Cluster);
        let request = client.next_request().unwrap();
        assert_eq!(
            session.receive(request),
            [Event::SubscribedAll {
                kind: Kind::Cluster
            }]
        );
        let empty = session
            .next_response(&mut world)
            .expect("an empty world is still an answer");
        assert!(empty.resources.is_empty());
        client.receive(empty);
        while let Some(request) = client.next_request() {
            session.receive(request);
        }
        world.put(Kind::Cluster, "c", vec![1]);
        let response = session.next_response(&mut world).unwrap();
        assert_eq!(response.resources.len(), 1);
    }
}

#[test]
fn a_name_that_is_let_go_is_still_covered_by_a_wildcard() {
    let mut world = World::default();
    world.host("a", false);
    let mut client = Client::new(Node::default(), Protocol::Delta);
    let mut session = Session::new(Protocol::Delta);
    client.connected();
    client.subscribe_all(Kind::Host);
    for name in ["a", "alias"] {
        client.subscribe(key(Kind::Host, name));
    }
    let (updates, _) = settle(&mut client, &mut session, &mut world);
    assert_eq!(
        names(&updates),
        (vec!["a".to_owned()], vec!["alias".to_owned()])
    );
    for name in ["a", "alias"] {
        client.unsubscribe(&key(Kind::Host, name));
    }
    let (updates, _) = settle(&mut client, &mut session, &mut world);
    assert_eq!(names(&updates).0, ["a"]);
    // A new stream says what it holds, and hears nothing new.
    client.connected();
    let mut session = Session::new(Protocol::Delta);
    let (updates, _) = settle(&mut client, &mut session, &mut world);
    assert_eq!(names(&updates), (vec![], vec![]));
}

#[test]
fn one_response_of_a_type_is_on_its_way_at_a_time() {
    let mut world = World::default();
    world.host("a", false);
    let mut client = Client::new(Node::default(), Protocol::Delta);
    let mut session = Session::new(Protocol::Delta);
    client.connected();
    client.subscribe(key(Kind::Host, "a"));
    session.receive(client.next_request().unwrap());
    let first = session.next_response(&mut world).unwrap();
    world.host("a", true);
    assert!(
        session.next_response(&mut world).is_none(),
        "the first is not answered yet"
    );
    client.receive(first);
    session.receive(client.next_request().unwrap());
    assert!(session.next_response(&mut world).is_some());
}

#[test]
fn changed_clusters_bring_their_endpoints_again() {
    let mut world = World::default();
    world.put(Kind::Cluster, "c", vec![1]);
    world.put(Kind::Endpoints, "c", vec![2]);
    let mut session = Session::new(Protocol::Delta);
    let ask = |kind: Kind, nonce: &str| Request {
        node: None,
        type_url: type_url(kind).into(),
        nonce: nonce.into(),
        error: None,
        interest: Interest::Delta {
            subscribe: if nonce.is_empty() {
                vec!["c".into()]
            } else {
                Vec::new()
            },
            unsubscribe: Vec::new(),
            held: Vec::new(),
        },
    };
    for kind in [Kind::Cluster, Kind::Endpoints] {
        session.receive(ask(kind, ""));
        let nonce = session.next_response(&mut world).unwrap().nonce;
        session.receive(ask(kind, &nonce));
    }
    assert!(session.next_response(&mut world).is_none());
    world.put(Kind::Cluster, "c", vec![3]);
    let first = session.next_response(&mut world).unwrap();
    let second = session.next_response(&mut world).unwrap();
    assert_eq!(
        (kind(&first.type_url), kind(&second.type_url)),
        (Some(Kind::Cluster), Some(Kind::Endpoints))
    );
}

#[test]
fn health_is_an_event() {
    let mut client = Client::new(Node::default(), Protocol::Delta);
    let mut session = Session::new(Protocol::Delta);
    client.connected();
    client.report(Some("draining"));
    assert_eq!(
        session.receive(client.next_request().unwrap()),
        [Event::Health(Some("draining".into()))]
    );
    client.report(None);
    assert_eq!(
        session.receive(client.next_request().unwrap()),
        [Event::Health(None)]
    );
}

#[test]
fn hosts_and_ranges_survive_the_wire() {
    use ripstop_model::protocol::Protocol as App;
    use ripstop_model::seam::HostPort;
    let host = HostRecord {
        fqdn: "a.default.svc.cluster.local".into(),
        vips: vec!["240.240.0.1".parse().unwrap(), "2001:2::1".parse().unwrap()],
        endpoints: vec!["10.88.0.2".parse().unwrap()],
        headless: true,
        ports: vec![
            HostPort {
                number: 80,
                name: "http".into(),
                protocol: App::Http,
            },
            HostPort {
                number: 81,
                name: "x".into(),
                protocol: App::Auto,
            },
            HostPort {
                number: 82,
                name: "w".into(),
                protocol: App::GrpcWeb,
            },
        ],
    };
    let decoded =
        crate::resource::decode(Kind::Host, &"alias".into(), &encode_host(&host)).unwrap();
    assert_eq!(&*decoded.name, "alias");
    assert_eq!(decoded.resource, Resource::Host(Arc::new(host)));
    let ranges: Arc<[ipnet::IpNet]> = Arc::from([
        "240.240.0.0/16".parse().unwrap(),
        "2001:2::/48".parse().unwrap(),
    ]);
    let bytes = encode_ranges(&ranges);
    assert_eq!(
        crate::resource::decode(Kind::Ranges, &"".into(), &bytes)
            .unwrap()
            .resource,
        Resource::Ranges(ranges)
    );
}
