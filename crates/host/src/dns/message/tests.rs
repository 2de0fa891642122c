use std::sync::Arc;

use super::*;
use crate::workload::{Addresses, HostResolver};

fn zone() -> Zone {
    Zone {
        addresses: Addresses {
            v4: Some([10, 88, 0, 5].into()),
            v6: Some("fd72:6970:7374::5".parse().unwrap()),
        },
        host_ports: true,
        resolver: HostResolver::parse("", "laptop"),
        mesh: vec![
            "240.240.0.0/16".parse().unwrap(),
            "2001:2::/48".parse().unwrap(),
        ],
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn step(message: &Message) -> Step {
    read(&message.to_vec().unwrap(), &zone(), Transport::Datagram)
}

fn message(step: Step) -> Message {
    Message::from_vec(&step.into_answer().expect("an answer")).unwrap()
}

fn asked(step: Step) -> Question {
    match step {
        Step::Ask(question) => question,
        other => panic!("{other:?}"),
    }
}

fn orders() -> Lookup {
    Lookup::Known(Arc::new(HostRecord {
        fqdn: "orders.shop.svc.cluster.local".into(),
        vips: vec!["240.240.0.9".parse().unwrap(), "2001:2::9".parse().unwrap()],
        ..HostRecord::default()
    }))
}

fn resolve(name: &str, kind: RecordType, found: &Lookup) -> Message {
    message(asked(step(&query(name, kind))).answer(found, &zone()))
}

fn data(message: &Message) -> Vec<String> {
    message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

#[test]
fn a_mesh_name_answers_each_family_and_nodata_for_the_rest() {
    let question = asked(step(&query("OrDeRs.Shop.", RecordType::A)));
    assert_eq!(question.name(), "orders.shop");
    let answer = message(question.answer(&orders(), &zone()));
    assert_eq!(data(&answer), ["240.240.0.9"]);
    assert_eq!(answer.queries[0].name().to_string(), "OrDeRs.Shop.");
    assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
    assert_eq!(
        data(&resolve("orders.", RecordType::AAAA, &orders())),
        ["2001:2::9"]
    );
    let nodata = resolve("orders.", RecordType::MX, &orders());
    assert_eq!(
        (nodata.metadata.response_code, nodata.answers.len()),
        (ResponseCode::NoError, 0)
    );
}

#[test]
fn families_the_workload_lacks_are_nodata() {
    let mut zone = zone();
    zone.addresses.v4 = None;
    let answer = message(asked(step(&query("orders.", RecordType::A))).answer(&orders(), &zone));
    assert_eq!(
        (answer.metadata.response_code, answer.answers.len()),
        (ResponseCode::NoError, 0)
    );
}

#[test]
fn unknown_names_go_outside_and_silence_is_a_failure() {
    let forwarded =
        asked(step(&query("example.com.", RecordType::A))).answer(&Lookup::Unknown, &zone());
    assert!(matches!(forwarded, Step::Forward(_)), "{forwarded:?}");
    let failed =
        asked(step(&query("orders.", RecordType::A))).answer(&Lookup::Unavailable, &zone());
    assert!(matches!(failed, Step::Fail(_)), "{failed:?}");
    assert_eq!(
        message(failed).metadata.response_code,
        ResponseCode::ServFail
    );
}

#[test]
fn names_of_our_own_are_answered_without_asking() {
    let answer = |name, kind| data(&message(step(&query(name, kind))));
    assert_eq!(answer("localhost.", RecordType::A), ["127.0.0.1"]);
    assert_eq!(answer("host.ripstop.internal.", RecordType::AAAA), ["::1"]);
    assert_eq!(answer("laptop.", RecordType::A), ["10.88.0.5"]);
    let missing = message(step(&query("other.ripstop.internal.", RecordType::A)));
    assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn pointers_stay_inside_for_the_meshs_ranges() {
    let question = asked(step(&query("9.0.240.240.in-addr.arpa.", RecordType::PTR)));
    assert_eq!(question.name(), "ip/240.240.0.9");
    assert_eq!(
        data(&message(question.answer(&orders(), &zone()))),
        ["orders.shop.svc.cluster.local."]
    );
    let unknown = resolve(
        "9.0.240.240.in-addr.arpa.",
        RecordType::PTR,
        &Lookup::Unknown,
    );
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    assert!(matches!(
        step(&query("8.8.8.8.in-addr.arpa.", RecordType::PTR)),
        Step::Forward(_)
    ));
    assert_eq!(
        data(&message(step(&query(
            "1.0.0.127.in-addr.arpa.",
            RecordType::PTR
        )))),
        ["localhost."]
    );
}

#[test]
fn what_does_not_fit_is_truncated_and_tcp_carries_it() {
    let many = Lookup::Known(Arc::new(HostRecord {
        fqdn: "db.shop.svc.cluster.local".into(),
        endpoints: (0..100).map(|n| IpAddr::from([10, 88, 1, n])).collect(),
        headless: true,
        ..HostRecord::default()
    }));
    let short = resolve("db.", RecordType::A, &many);
    assert!(
        short.metadata.truncation && (25..40).contains(&short.answers.len()),
        "{short}"
    );
    let mut extended = query("db.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    extended.set_edns(edns);
    let answer = message(asked(step(&extended)).answer(&many, &zone()));
    assert!(
        answer.metadata.truncation,
        "1232 bytes is all a datagram carries"
    );
    assert!((65..100).contains(&answer.answers.len()));
    assert!(answer.edns.is_some(), "EDNS is answered with EDNS");
    let bytes = query("db.", RecordType::A).to_vec().unwrap();
    let whole = asked(read(&bytes, &zone(), Transport::Stream)).answer(&many, &zone());
    assert_eq!(message(whole).answers.len(), 100);
}

#[test]
fn malformed_queries_never_panic_and_are_told_so() {
    assert!(matches!(
        read(&[], &zone(), Transport::Datagram),
        Step::Drop
    ));
    assert!(matches!(
        read(&[0; 11], &zone(), Transport::Datagram),
        Step::Drop
    ));
    let none = message(read(&[0; 12], &zone(), Transport::Datagram));
    assert_eq!(none.metadata.response_code, ResponseCode::FormErr);
    let bytes = query("orders.shop.", RecordType::A).to_vec().unwrap();
    for cut in 12..bytes.len() {
        let answer = message(read(&bytes[..cut], &zone(), Transport::Datagram));
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::FormErr,
            "cut at {cut}"
        );
    }
    let mut response = bytes.clone();
    response[2] |= 0x80;
    assert!(matches!(
        read(&response, &zone(), Transport::Datagram),
        Step::Drop
    ));
    let mut update = bytes;
    update[2] = 5 << 3;
    assert!(
        read(&update, &zone(), Transport::Datagram)
            .into_answer()
            .is_some()
    );
}

#[test]
fn a_future_edns_version_is_refused() {
    let mut message_ = query("orders.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    message_.set_edns(edns);
    let code = message(step(&message_)).metadata.response_code;
    // BADVERS; the decoder names 16 after its other meaning.
    assert_eq!(u16::from(code), 16);
}
