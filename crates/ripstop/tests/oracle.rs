//! The oracle suite: one static Envoy v3 bootstrap into a real Envoy and into `ripstop proxy`, the same bytes of
//! requests to both → the same answers, the same requests seen by the upstreams, the same counters.
//!
//! A case is a folder under `oracle/cases`; `oracle/README.md` says what it holds. All cases run in one process of each
//! program, one program after the other, so that both are given the very same file with the very same ports. Where
//! ripstop may differ is the closed list in `oracle/differences.rs`. That the cases show every field which ripstop
//! supports is what `oracle/coverage.rs` checks, beside them and in the same processes.
//!
//! `CASE=retry,fault cargo test -p ripstop --test oracle` runs the cases whose names contain `retry` or `fault`; with
//! `SHOW=1` it prints what Envoy answered.

mod oracle {
    pub(crate) mod bootstrap;
    pub(crate) mod case;
    pub(crate) mod compare;
    pub(crate) mod coverage;
    pub(crate) mod differences;
    pub(crate) mod exchange;
    pub(crate) mod http2;
    pub(crate) mod logged;
    pub(crate) mod message;
    pub(crate) mod pki;
    pub(crate) mod script;
    pub(crate) mod subject;
    pub(crate) mod supported;
    pub(crate) mod transport;
}

use oracle::case::Case;
use oracle::coverage::{Shown, Table};
use oracle::exchange::Outcome;
use oracle::{bootstrap, compare, coverage, differences, exchange, subject};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cases wait for their upstreams most of the time.
const AT_ONCE: usize = 40;

#[test]
fn ripstop_answers_as_envoy_does() {
    let wanted = std::env::var("CASE").unwrap_or_default();
    let cases: Vec<Case> = Case::all()
        .into_iter()
        .filter(|case| wanted.split(',').any(|part| case.name.contains(part)))
        .collect();
    assert!(!cases.is_empty(), "no case is named like {wanted:?}");
    let table = Table::read();
    let variants = coverage::variants(&table, &cases);
    let all: Vec<&Case> = cases
        .iter()
        .chain(variants.iter().map(|variant| &variant.case))
        .collect();
    let (envoy, ripstop) = both(&all);
    let judge = |at: usize, expected: &Outcome, actual: &Outcome| match at.checked_sub(cases.len())
    {
        None => compare::case(&cases[at], expected, actual),
        Some(nth) => {
            let variant = &variants[nth];
            variant.check(&cases, &envoy[variant.of], expected, actual)
        }
    };

    let mut wrong = String::new();
    for (at, (expected, actual)) in envoy.iter().zip(&ripstop).enumerate() {
        wrong.push_str(&settled(
            all[at],
            judge(at, expected, actual),
            |expected, actual| judge(at, expected, actual),
        ));
    }
    if std::env::var_os("SHOW").is_some() {
        for (case, expected) in cases.iter().zip(&envoy) {
            println!("{}", compare::show(case, expected));
        }
    }
    if wanted.is_empty() {
        wrong.push_str(&compare::unused(&cases));
    }
    if std::env::var_os("UPDATE").is_some() {
        coverage::update(table, &cases, &envoy, &both);
    }
    let allowed = differences::listed();
    assert!(wrong.is_empty(), "\n{wrong}\nallowed to differ:\n{allowed}");
    println!(
        "{} cases and {} variants of them alike, but for\n{allowed}",
        cases.len(),
        variants.len()
    );
}

#[test]
fn every_field_that_is_supported_has_its_line_of_coverage() {
    let table = Table::read();
    let wrong = table.against_the_decoder();
    assert!(wrong.is_empty(), "run with UPDATE=1\n{wrong}");
    let missing = table.0.values().filter(|shown| **shown == Shown::Missing);
    println!(
        "{} fields, {} not shown yet",
        table.0.len(),
        missing.count()
    );
}

#[test]
fn every_field_that_is_not_supported_is_refused_by_its_path() {
    let found = coverage::refusals(&Table::read(), &Case::all());
    // A message that no case has is missing from the coverage of what is supported as well.
    let (unreached, wrong): (Vec<&str>, Vec<&str>) = found
        .lines()
        .partition(|line| line.ends_with("no case has such a message"));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    println!("{} could be given in no case", unreached.len());
}

#[test]
fn access_logs_read_as_envoys_do() {
    let wrong = oracle::logged::compare();
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// What is wrong with a case. Where chance or the clock decides, only what is wrong every time: the case is played by
/// itself until it is right, a few times.
fn settled(case: &Case, mut wrong: String, judge: impl Fn(&Outcome, &Outcome) -> String) -> String {
    const MOST: usize = 3;
    for round in 2..=MOST {
        if wrong.is_empty() || !case.has_chance() {
            break;
        }
        println!("{wrong}is left to chance: round {round} of {MOST}");
        let (envoy, ripstop) = both(&[case]);
        wrong = judge(&envoy[0], &ripstop[0]);
    }
    wrong
}

/// Plays every case against Envoy and then against ripstop, as many at a time as one bootstrap holds.
fn both(cases: &[&Case]) -> (Vec<Outcome>, Vec<Outcome>) {
    /// ripstop reads files of up to 4 MiB.
    const MOST: usize = 3 << 20;
    let mut size = 0;
    let full = |case: &&Case| {
        size += case.bootstrap.to_string().len();
        size > MOST
    };
    let at = cases.iter().position(full).unwrap_or(cases.len());
    let (now, later) = cases.split_at(at.max(1).min(cases.len()));
    let (mut expected, mut actual) = together(now);
    if !later.is_empty() {
        let (envoy, ripstop) = both(later);
        expected.extend(envoy);
        actual.extend(ripstop);
    }
    (expected, actual)
}

fn together(cases: &[&Case]) -> (Vec<Outcome>, Vec<Outcome>) {
    let admin = ripstop_testkit::port::reserve();
    let file = bootstrap::join(cases, admin.addr());
    let envoy = subject::envoy(&file, admin.addr());
    let expected = play(cases, admin.addr());
    drop(envoy);
    let ripstop = subject::ripstop(&file, cases);
    let actual = play(cases, admin.addr());
    drop(ripstop);
    (expected, actual)
}

/// Plays every case against the program that runs now; what happened, in the order of the cases.
fn play(cases: &[&Case], admin: SocketAddr) -> Vec<Outcome> {
    let results: Vec<Mutex<Outcome>> = cases.iter().map(|_| Mutex::default()).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(cases.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(index) else { break };
                    *results[index].lock().expect("one writer") = exchange::play(case, admin);
                }
            });
        }
    });
    results
        .into_iter()
        .map(|result| result.into_inner().expect("no writer left"))
        .collect()
}
