use std::collections::{BTreeMap, BTreeSet};

use ripstop_model::snapshot::endpoint::{Group, Health};

use super::*;

/// SplitMix64 with a fixed seed.
fn dice() -> impl FnMut() -> u64 {
    let mut state = 42u64;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

const EVERY_POLICY: [LbPolicy; 6] = [
    LbPolicy::RoundRobin,
    LbPolicy::LeastRequest { choices: 2 },
    LbPolicy::Random,
    LbPolicy::RingHash {
        min_size: 1024,
        max_size: 8 << 20,
    },
    LbPolicy::Maglev { table_size: 65537 },
    LbPolicy::PeakEwma {
        decay: Duration::from_secs(10),
    },
];

const STRICT: Panic = Panic {
    below: Fraction::NEVER,
    when_none: false,
};

fn group(priority: u32, endpoints: &[(u16, u32, Health)]) -> Group {
    Group {
        priority,
        endpoints: endpoints
            .iter()
            .map(|(port, weight, health)| Endpoint {
                address: Target::Socket(([127, 0, 0, 1], *port).into()),
                weight: *weight,
                health: *health,
                hostname: None,
                transport: BTreeMap::new(),
                labels: BTreeMap::new(),
                workload: None,
            })
            .collect(),
        ..Group::default()
    }
}

fn roster(groups: Vec<Group>, old: Option<&Roster>) -> Arc<Roster> {
    let endpoints = Endpoints {
        name: "c".into(),
        groups,
        overprovisioning: 140,
    };
    Arc::new(Roster::new(&endpoints, old, Duration::ZERO))
}

pub(super) fn member_in(locality: Locality) -> Arc<Member> {
    let group = Group {
        locality,
        ..group(0, &[(1, 1, Health::Healthy)])
    };
    roster(vec![group], None).members().next().unwrap().clone()
}

fn even(count: u16) -> Arc<Roster> {
    let members: Vec<_> = (1..=count).map(|port| (port, 1, Health::Healthy)).collect();
    roster(vec![group(0, &members)], None)
}

fn port(member: &Member) -> u16 {
    match &member.endpoint.address {
        Target::Socket(address) => address.port(),
        other => panic!("{other:?}"),
    }
}

/// How often each port is picked, no request staying.
fn tally(balance: &mut Balance, roster: &Arc<Roster>, rounds: u32) -> BTreeMap<u16, u32> {
    let mut dice = dice();
    let mut counts = BTreeMap::new();
    for _ in 0..rounds {
        let mut ask = Ask::new(Wish::default(), Duration::ZERO, &mut dice);
        let picked = balance.pick(roster, &mut ask).unwrap();
        *counts.entry(port(&picked.member)).or_default() += 1;
    }
    counts
}

fn near(count: u32, want: f64, tolerance: f64) -> bool {
    (f64::from(count) - want).abs() <= want * tolerance
}

#[test]
fn every_policy_is_fair_among_equals() {
    for policy in EVERY_POLICY {
        let counts = tally(&mut Balance::new(policy.clone(), STRICT), &even(4), 40_000);
        for (port, count) in &counts {
            assert!(
                near(*count, 10_000.0, 0.15),
                "{policy:?} {port}: {counts:?}"
            );
        }
        assert_eq!(counts.len(), 4, "{policy:?}");
    }
}

#[test]
fn weights_count_where_envoy_counts_them() {
    let weighted = roster(
        vec![group(
            0,
            &[(1, 1, Health::Healthy), (2, 3, Health::Healthy)],
        )],
        None,
    );
    for policy in EVERY_POLICY {
        let counts = tally(&mut Balance::new(policy.clone(), STRICT), &weighted, 40_000);
        let want = match policy {
            LbPolicy::Random => 20_000.0,
            // One of two draws finds the heavier one, and it wins every comparison.
            LbPolicy::PeakEwma { .. } => continue,
            _ => 30_000.0,
        };
        assert!(near(counts[&2], want, 0.1), "{policy:?}: {counts:?}");
    }
}

#[test]
fn round_robin_goes_round_exactly() {
    let counts = tally(
        &mut Balance::new(LbPolicy::RoundRobin, STRICT),
        &even(3),
        300,
    );
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [100, 100, 100]);
}

#[test]
fn the_unusable_are_never_picked_and_come_back() {
    for policy in EVERY_POLICY {
        let roster = roster(
            vec![group(
                0,
                &[
                    (1, 1, Health::Healthy),
                    (2, 1, Health::Unhealthy),
                    (3, 1, Health::Draining),
                    (4, 1, Health::Unknown),
                ],
            )],
            None,
        );
        let mut balance = Balance::new(policy, STRICT);
        let keys = |counts: BTreeMap<u16, u32>| counts.into_keys().collect::<Vec<_>>();
        assert_eq!(keys(tally(&mut balance, &roster, 500)), [1, 4]);
        let load = roster.members().next().unwrap().load.clone();
        roster.set_bar(&load, Bar::Ejected, true);
        roster.set_bar(&load, Bar::FailedCheck, true);
        assert_eq!(keys(tally(&mut balance, &roster, 500)), [4]);
        roster.set_bar(&load, Bar::Ejected, false);
        assert_eq!(keys(tally(&mut balance, &roster, 500)), [4]);
        roster.set_bar(&load, Bar::FailedCheck, false);
        assert_eq!(keys(tally(&mut balance, &roster, 500)), [1, 4]);
    }
}

#[test]
fn nobody_usable_is_nobody_or_all() {
    let bad = roster(
        vec![group(
            0,
            &[(1, 1, Health::Unhealthy), (2, 1, Health::Unhealthy)],
        )],
        None,
    );
    let mut dice = dice();
    for policy in EVERY_POLICY {
        let mut ask = Ask::new(Wish::default(), Duration::ZERO, &mut dice);
        assert!(
            Balance::new(policy.clone(), STRICT)
                .pick(&bad, &mut ask)
                .is_none()
        );
        assert!(
            Balance::new(policy.clone(), STRICT)
                .pick(&even(0), &mut ask)
                .is_none()
        );
        let lenient = Panic {
            when_none: true,
            ..STRICT
        };
        assert!(
            Balance::new(policy.clone(), lenient)
                .pick(&bad, &mut ask)
                .unwrap()
                .panic
        );
        let envoy = Panic {
            below: Fraction::percent(50.0),
            when_none: false,
        };
        assert!(
            Balance::new(policy, envoy)
                .pick(&bad, &mut ask)
                .unwrap()
                .panic
        );
    }
}

#[test]
fn a_retry_goes_elsewhere_while_there_is_an_elsewhere() {
    let roster = even(3);
    let mut dice = dice();
    for policy in EVERY_POLICY {
        let mut balance = Balance::new(policy, STRICT);
        for _ in 0..200 {
            let mut tried: Vec<Arc<Member>> = Vec::new();
            for attempt in 0..3 {
                let mut ask = Ask::new(
                    Wish {
                        hash: Some(7),
                        tried: &tried,
                        ..Wish::default()
                    },
                    Duration::ZERO,
                    &mut dice,
                );
                let member = balance.pick(&roster, &mut ask).unwrap().member.clone();
                assert!(
                    tried.iter().all(|old| port(old) != port(&member)),
                    "attempt {attempt}"
                );
                tried.push(member);
            }
            let mut ask = Ask::new(
                Wish {
                    tried: &tried,
                    ..Wish::default()
                },
                Duration::ZERO,
                &mut dice,
            );
            assert!(balance.pick(&roster, &mut ask).is_some());
        }
    }
}

#[test]
fn least_request_avoids_the_busy() {
    let roster = even(2);
    let mut balance = Balance::new(LbPolicy::LeastRequest { choices: 2 }, STRICT);
    let mut dice = dice();
    let mut held = Vec::new();
    for _ in 0..1000 {
        let mut ask = Ask::new(Wish::default(), Duration::ZERO, &mut dice);
        held.push(balance.pick(&roster, &mut ask).unwrap());
    }
    let active: Vec<u32> = roster
        .members()
        .map(|member| member.load.active())
        .collect();
    assert_eq!(active.iter().sum::<u32>(), 1000);
    assert!(active[0].abs_diff(active[1]) < 20, "{active:?}");
    drop(held);
    assert!(roster.members().all(|member| member.load.active() == 0));
}

/// Of two members, one answers well in 20 ms; how many of 1000 requests the other gets.
fn beside_a_good_one(answer: impl Fn(Duration) -> Outcome) -> u32 {
    let roster = even(2);
    let decay = Duration::from_secs(10);
    let mut balance = Balance::new(LbPolicy::PeakEwma { decay }, STRICT);
    let mut dice = dice();
    let mut count = 0;
    for round in 0..1000 {
        let now = Duration::from_secs(1) + Duration::from_millis(round);
        let mut ask = Ask::new(Wish::default(), now, &mut dice);
        let picked = balance.pick(&roster, &mut ask).unwrap();
        let outcome = match port(&picked.member) {
            1 => {
                count += 1;
                answer(now)
            }
            _ => good(Duration::from_millis(20), now),
        };
        balance.done(&picked, &outcome);
    }
    count
}

fn good(latency: Duration, now: Duration) -> Outcome {
    Outcome {
        latency,
        failed: false,
        wait: Duration::ZERO,
        now,
    }
}

#[test]
fn peak_ewma_leaves_alone_who_asks_for_it_and_is_not_won_by_fast_failures() {
    let quick = Duration::from_millis(1);
    // The better of the two, as long as it says nothing else.
    assert!(beside_a_good_one(|now| good(quick, now)) > 700);
    let overloaded = |now| Outcome {
        wait: Duration::from_secs(5),
        ..good(quick, now)
    };
    assert!(beside_a_good_one(overloaded) < 350);
    let failing = |now| Outcome {
        failed: true,
        ..good(quick, now)
    };
    assert!(beside_a_good_one(failing) < 350);
}

/// Whoever picked, and whatever became of the members since: of a subset, of one that nobody is in, of none any more.
#[test]
fn what_a_request_met_is_learnt_with_subsets_too() {
    let decay = Duration::from_secs(10);
    let criteria = |stage: &str| BTreeMap::from([("stage".to_owned(), stage.to_owned())]);
    let rules = Subsets {
        fallback: ripstop_model::subset::Fallback::Nobody,
        default: Criteria::new(),
        selectors: vec![ripstop_model::subset::Selector {
            keys: BTreeSet::from(["stage".to_owned()]),
            fallback: None,
        }],
    };
    let mut group = group(0, &[(1, 1, Health::Healthy), (2, 1, Health::Healthy)]);
    for (endpoint, stage) in group.endpoints.iter_mut().zip(["dev", "prod"]) {
        endpoint.labels = criteria(stage);
    }
    let (before, without) = (roster(vec![group], None), roster(Vec::new(), None));
    let balance = Balance::new(LbPolicy::PeakEwma { decay }, STRICT);
    let mut balance = balance.by_subsets(Some(Arc::new(rules)));
    let mut dice = dice();
    let mut pick = |roster: &Arc<Roster>, stage: &str| {
        let criteria = criteria(stage);
        let wish = Wish {
            criteria: Some(&criteria),
            ..Wish::default()
        };
        let picked = balance.pick(roster, &mut Ask::new(wish, Duration::ZERO, &mut dice));
        // The members have changed since.
        assert!(
            balance
                .pick(&without, &mut Ask::new(wish, Duration::ZERO, &mut dice))
                .is_none()
        );
        if let Some(picked) = &picked {
            balance.done(picked, &good(Duration::from_millis(70), Duration::ZERO));
        }
        picked
    };
    assert!(pick(&before, "none").is_none());
    for (stage, port_of) in [("prod", 2), ("dev", 1)] {
        let picked = pick(&before, stage).unwrap();
        assert_eq!(port(&picked.member), port_of);
        assert_eq!(picked.member.load.ewma.load(Ordering::Relaxed), 70_000_000);
    }
}

#[test]
fn peak_ewma_turns_from_the_slow_and_forgives() {
    let roster = even(2);
    let mut balance = Balance::new(
        LbPolicy::PeakEwma {
            decay: Duration::from_secs(10),
        },
        STRICT,
    );
    let mut dice = dice();
    let mut run = |from: u64| {
        let mut slow = 0;
        for round in 0..1000 {
            let now = Duration::from_secs(from) + Duration::from_millis(round);
            let mut ask = Ask::new(Wish::default(), now, &mut dice);
            let picked = balance.pick(&roster, &mut ask).unwrap();
            let is_slow = port(&picked.member) == 1;
            slow += u32::from(is_slow);
            let latency = Duration::from_millis(if is_slow { 100 } else { 5 });
            let outcome = Outcome {
                latency,
                failed: false,
                wait: Duration::ZERO,
                now,
            };
            balance.done(&picked, &outcome);
        }
        slow
    };
    // Only when both draws are the slow one.
    assert!(run(1) < 350);
    // An hour later the first draw decides again, until it has answered.
    assert!(run(3600) > 0);
}

#[test]
fn consistent_hashing_moves_only_what_it_must() {
    let ten = even(10);
    let nine = even(9);
    let mut dice = dice();
    let mut pick = |balance: &mut Balance, roster: &Arc<Roster>, hash: u64| {
        let mut ask = Ask::new(
            Wish {
                hash: Some(hash),
                ..Wish::default()
            },
            Duration::ZERO,
            &mut dice,
        );
        port(&balance.pick(roster, &mut ask).unwrap().member)
    };
    for policy in [
        LbPolicy::RingHash {
            min_size: 1024,
            max_size: 8 << 20,
        },
        LbPolicy::Maglev { table_size: 65537 },
    ] {
        let balance = || Balance::new(policy.clone(), STRICT);
        let (mut one, mut other, mut fewer) = (balance(), balance(), balance());
        let mut moved = 0;
        for key in 0..5000u64 {
            let hash = ripstop_model::hash::xx64(&key.to_le_bytes());
            let before = pick(&mut one, &ten, hash);
            // Any two proxies agree.
            assert_eq!(pick(&mut other, &ten, hash), before);
            let after = pick(&mut fewer, &nine, hash);
            moved += u32::from(before != 10 && before != after);
        }
        // A tenth of the keys must move; of the others only few do, as the places of the remaining members shift.
        assert!(moved < 500, "{policy:?}: {moved}");
    }
}

#[test]
fn priorities_spill_when_the_first_is_weak() {
    let members = |ports: std::ops::Range<u16>, bad: u16| -> Vec<_> {
        let first_good = ports.start + bad;
        ports
            .map(|port| {
                (
                    port,
                    1,
                    if port < first_good {
                        Health::Unhealthy
                    } else {
                        Health::Healthy
                    },
                )
            })
            .collect()
    };
    let roster = roster(
        vec![group(1, &members(100..104, 0)), group(0, &members(1..5, 2))],
        None,
    );
    let counts = tally(&mut Balance::new(LbPolicy::Random, STRICT), &roster, 20_000);
    let second: u32 = counts.range(100..).map(|(_, count)| count).sum();
    // Half of the first priority is usable: it takes 70 %.
    assert!(near(second, 6_000.0, 0.1), "{counts:?}");
}

#[test]
fn load_and_bars_outlive_a_roster() {
    let old = even(2);
    let first = old.members().next().unwrap();
    old.set_bar(&first.load, Bar::Ejected, true);
    let members: Vec<_> = (1..=3).map(|port| (port, 5, Health::Healthy)).collect();
    let fresh = roster(vec![group(0, &members)], Some(&old));
    let mut balance = Balance::new(LbPolicy::RoundRobin, STRICT);
    assert!(!tally(&mut balance, &fresh, 100).contains_key(&1));
    // Whoever still holds the old roster can let it in again, and everybody sees it.
    old.set_bar(&first.load, Bar::Ejected, false);
    assert!(tally(&mut balance, &fresh, 100).contains_key(&1));
}

#[test]
fn who_is_new_is_given_its_share_little_by_little() {
    let slow = SlowStart {
        window: Duration::from_secs(100),
        aggression: 2.0,
        min_percent: 20.0,
    };
    for policy in [LbPolicy::RoundRobin, LbPolicy::LeastRequest { choices: 2 }] {
        let roster = even(2);
        let mut balance = Balance::new(policy, STRICT).slowly(Some(slow.clone()));
        let second = roster.members().nth(1).unwrap().load.clone();
        second.begins(Duration::from_secs(1000));
        for (seconds, part) in [(0, 0.2), (25, 0.5), (64, 0.8), (100, 1.0), (1000, 1.0)] {
            let now = Duration::from_secs(1000 + seconds);
            let mut dice = dice();
            let mut count = [0u32; 2];
            for _ in 0..12_000 {
                let mut ask = Ask::new(Wish::default(), now, &mut dice);
                let picked = balance.pick(&roster, &mut ask).unwrap();
                count[usize::from(port(&picked.member) - 1)] += 1;
            }
            let want = 12_000.0 * part / (1.0 + part);
            assert!(near(count[1], want, 0.02), "{seconds}: {count:?}");
        }
    }
}

#[test]
fn a_policy_may_say_how_hard_to_look_for_another_member() {
    let members = [(1, 999, Health::Healthy), (2, 1, Health::Healthy)];
    let roster = roster(vec![group(0, &members)], None);
    let tried: Vec<Arc<Member>> = roster.members().take(1).cloned().collect();
    let elsewhere = |picks: Picks| {
        let mut balance = Balance::new(LbPolicy::RoundRobin, STRICT);
        let mut dice = dice();
        let wish = Wish {
            tried: &tried,
            picks,
            ..Wish::default()
        };
        let fresh = (0..100).filter(|_| {
            let mut ask = Ask::new(wish, Duration::ZERO, &mut dice);
            port(&balance.pick(&roster, &mut ask).unwrap().member) == 2
        });
        fresh.count()
    };
    assert_eq!(elsewhere(Picks::Fresh), 100);
    assert_eq!(elsewhere(Picks::Again(2000)), 100);
    assert!(elsewhere(Picks::Again(1)) < 5);
}

#[test]
fn the_degraded_are_used_where_the_others_do_not_suffice() {
    let tier = |degraded: usize| {
        let health = |index| match index < degraded {
            true => Health::Degraded,
            false => Health::Healthy,
        };
        let members: Vec<_> = (0..4).map(|at| (at as u16 + 1, 1, health(at))).collect();
        roster(vec![group(0, &members)], None)
    };
    let share = |degraded: usize| {
        let mut balance = Balance::new(LbPolicy::RoundRobin, STRICT);
        let counts = tally(&mut balance, &tier(degraded), 10_000);
        let degraded = counts
            .iter()
            .filter(|(port, _)| usize::from(**port) <= degraded);
        degraded.map(|(_, count)| count).sum::<u32>()
    };
    assert_eq!(share(1), 0, "three of four are enough");
    assert!(near(share(2), 3_000.0, 0.1));
    assert!(near(share(3), 6_500.0, 0.1));
    assert_eq!(share(4), 10_000);
}
