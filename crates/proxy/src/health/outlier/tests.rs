use std::collections::BTreeMap;

use ripstop_model::snapshot::cluster::{FailurePercentage, SuccessRate};
use ripstop_model::snapshot::endpoint::{Endpoint, Endpoints, Group, Health};

use super::*;

fn config() -> Outlier {
    Outlier {
        consecutive_5xx: Some(5),
        consecutive_gateway: Some(3),
        consecutive_local_origin: Some(2),
        split_local_origin: false,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(80),
        max_ejection_percent: 50,
        keep_last: true,
        check_returns: true,
        success_rate: None,
        failure_percentage: None,
    }
}

fn roster(count: u16) -> Roster {
    let endpoint = |port| Endpoint {
        address: Target::Socket(([127, 0, 0, 1], port).into()),
        weight: 1,
        health: Health::Healthy,
        hostname: None,
        transport: BTreeMap::new(),
        labels: BTreeMap::new(),
        workload: None,
    };
    let group = Group {
        endpoints: (1..=count).map(endpoint).collect(),
        ..Group::default()
    };
    let endpoints = Endpoints {
        name: "c".into(),
        groups: vec![group],
        overprovisioning: 140,
    };
    Roster::new(&endpoints, None, Duration::ZERO)
}

fn member(roster: &Roster, index: usize) -> Arc<Member> {
    roster.members().nth(index).unwrap().clone()
}

fn ejected(roster: &Roster) -> usize {
    roster
        .members()
        .filter(|member| member.load.is_barred(Bar::Ejected))
        .count()
}

/// Reports the same thing until something happens, at most `most` times.
fn until(
    detector: &Detector,
    roster: &Roster,
    index: usize,
    report: Report,
    now: u64,
    most: usize,
) -> Option<(usize, Event)> {
    let member = member(roster, index);
    (1..=most).find_map(|count| {
        let event = detector.report(roster, &member, report, Duration::from_secs(now));
        event.map(|event| (count, event))
    })
}

fn tick(detector: &Detector, roster: &Roster, now: u64) -> Vec<Event> {
    detector.tick(roster, Duration::from_secs(now), &mut || 0)
}

#[test]
fn consecutive_errors_eject_at_their_threshold() {
    for (report, count, cause) in [
        (Report::Status(500), 5, Cause::Consecutive5xx),
        (Report::Status(503), 3, Cause::ConsecutiveGateway),
        (Report::LocalOrigin, 3, Cause::ConsecutiveGateway),
    ] {
        let (detector, roster) = (Detector::new(config()), roster(4));
        let (took, event) = until(&detector, &roster, 0, report, 0, 10).unwrap();
        assert_eq!(took, count, "{report:?}");
        assert!(
            matches!(event, Event::Ejected { cause: c, .. } if c == cause),
            "{event:?}"
        );
        assert_eq!(ejected(&roster), 1);
    }
}

#[test]
fn a_success_starts_the_count_anew() {
    let (detector, roster) = (Detector::new(config()), roster(4));
    for _ in 0..10 {
        assert!(until(&detector, &roster, 0, Report::Status(500), 0, 4).is_none());
        assert!(until(&detector, &roster, 0, Report::Status(404), 0, 1).is_none());
    }
    // A 500 is no gateway error: it interrupts their count.
    for _ in 0..2 {
        assert!(until(&detector, &roster, 1, Report::Status(503), 0, 2).is_none());
        assert!(until(&detector, &roster, 1, Report::Status(200), 0, 1).is_none());
    }
}

#[test]
fn local_failures_count_apart_when_split() {
    let split = Outlier {
        split_local_origin: true,
        ..config()
    };
    let (detector, roster) = (Detector::new(split), roster(4));
    let (took, event) = until(&detector, &roster, 0, Report::LocalOrigin, 0, 10).unwrap();
    assert_eq!(took, 2);
    assert!(matches!(
        event,
        Event::Ejected {
            cause: Cause::ConsecutiveLocalOrigin,
            ..
        }
    ));
    // Any answer proves that the way is good.
    assert!(until(&detector, &roster, 1, Report::LocalOrigin, 0, 1).is_none());
    assert!(until(&detector, &roster, 1, Report::Status(500), 0, 1).is_none());
    assert!(until(&detector, &roster, 1, Report::LocalOrigin, 0, 1).is_none());
}

#[test]
fn thresholds_that_are_off_never_eject() {
    let off = Outlier {
        consecutive_5xx: None,
        consecutive_gateway: Some(0),
        ..config()
    };
    let (detector, roster) = (Detector::new(off), roster(4));
    assert!(until(&detector, &roster, 0, Report::Status(503), 0, 100).is_none());
}

#[test]
fn the_share_is_rounded_down_and_the_last_stays() {
    // (members, percent, how many may go)
    for (count, percent, most) in [
        (1, 100, 0),
        (2, 100, 1),
        (3, 50, 1),
        (9, 10, 0),
        (10, 10, 1),
        (4, 100, 3),
        (4, 0, 0),
    ] {
        let limited = Outlier {
            max_ejection_percent: percent,
            ..config()
        };
        let (detector, roster) = (Detector::new(limited), roster(count));
        for index in 0..usize::from(count) {
            let (_, event) = until(&detector, &roster, index, Report::Status(503), 0, 10).unwrap();
            let expect_out = index < most;
            assert_eq!(
                matches!(event, Event::Ejected { .. }),
                expect_out,
                "{count} {percent} {index}"
            );
        }
        assert_eq!(ejected(&roster), most, "{count} members, {percent} %");
    }
    // Envoy's rule lets the last one go too.
    let envoy = Outlier {
        max_ejection_percent: 100,
        keep_last: false,
        check_returns: true,
        ..config()
    };
    let (detector, roster) = (Detector::new(envoy), roster(1));
    until(&detector, &roster, 0, Report::Status(503), 0, 10).unwrap();
    assert_eq!(ejected(&roster), 1);
}

#[test]
fn time_out_grows_and_shrinks_again() {
    let (detector, roster) = (Detector::new(config()), roster(4));
    let eject = |now| match until(&detector, &roster, 0, Report::Status(503), now, 10)
        .unwrap()
        .1
    {
        Event::Ejected { duration, .. } => duration.as_secs(),
        other => panic!("{other:?}"),
    };
    assert_eq!(eject(0), 30);
    assert!(tick(&detector, &roster, 29).is_empty());
    assert_eq!(ejected(&roster), 1);
    assert!(matches!(
        tick(&detector, &roster, 30)[..],
        [Event::Returned { .. }]
    ));
    assert_eq!(ejected(&roster), 0);
    assert_eq!(eject(31), 60);
    tick(&detector, &roster, 91);
    // Bounded by the longest time.
    assert_eq!(eject(92), 80);
    tick(&detector, &roster, 172);
    // Two quiet intervals take two off.
    tick(&detector, &roster, 182);
    tick(&detector, &roster, 192);
    assert_eq!(eject(193), 60);
}

#[test]
fn rates_are_judged_per_interval() {
    let with = |success_rate, failure_percentage| Outlier {
        consecutive_5xx: None,
        consecutive_gateway: None,
        success_rate,
        failure_percentage,
        ..config()
    };
    let success = SuccessRate {
        minimum_hosts: 5,
        request_volume: 100,
        stdev_factor: 1900,
        enforcing_percent: 100,
    };
    let failure = FailurePercentage {
        threshold: 85,
        minimum_hosts: 5,
        request_volume: 50,
        enforcing_percent: 100,
    };
    for (config, cause) in [
        (with(Some(success), None), Cause::SuccessRate),
        (with(None, Some(failure)), Cause::FailurePercentage),
    ] {
        let (detector, roster) = (Detector::new(config), roster(6));
        let serve = |requests| {
            for (index, member) in roster.members().enumerate() {
                for _ in 0..requests {
                    let status = if index == 3 { 500 } else { 200 };
                    detector.report(&roster, member, Report::Status(status), Duration::ZERO);
                }
            }
        };
        // Too few requests to judge.
        serve(20);
        assert!(tick(&detector, &roster, 10).is_empty());
        serve(100);
        let events = tick(&detector, &roster, 20);
        let [
            Event::Ejected {
                member: target,
                cause: found,
                ..
            },
        ] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!(
            (target, *found),
            (&member(&roster, 3).endpoint.address, cause)
        );
        // The next interval counts from zero.
        assert!(tick(&detector, &roster, 30).is_empty());
    }
}

#[test]
fn many_workers_never_eject_more_than_allowed() {
    let (detector, roster) = (Detector::new(config()), roster(8));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for member in roster.members() {
                    for _ in 0..50 {
                        detector.report(&roster, member, Report::Status(503), Duration::ZERO);
                        assert!(ejected(&roster) <= 4);
                    }
                }
            });
        }
    });
    assert_eq!(ejected(&roster), 4);
}
