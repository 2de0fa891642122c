//! The oracle suite: one static Envoy v3 bootstrap into a real Envoy and into `ripstop proxy`, the same bytes of
//! requests to both → the same answers, and the same requests seen by the upstreams.
//!
//! A case is a folder under `oracle/cases`: `bootstrap.yaml`, `upstreams.yaml` (may be missing) and `requests.yaml`;
//! `oracle/README.md` says what they hold. All cases run in one process of each program, one program after the other,
//! so that both are given the very same file with the very same ports. Where ripstop may differ is the closed list in
//! `oracle/differences.rs`.
//!
//! `CASE=retry cargo test -p ripstop --test oracle` runs the cases whose names contain `retry`; with `SHOW=1` it
//! prints what Envoy answered.

mod oracle {
    pub(crate) mod bootstrap;
    pub(crate) mod case;
    pub(crate) mod compare;
    pub(crate) mod differences;
    pub(crate) mod exchange;
    pub(crate) mod message;
    pub(crate) mod script;
    pub(crate) mod subject;
}

use oracle::case::Case;
use oracle::{bootstrap, compare, differences, exchange, subject};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cases wait for their upstreams most of the time.
const AT_ONCE: usize = 6;

#[test]
fn ripstop_answers_as_envoy_does() {
    let wanted = std::env::var("CASE").unwrap_or_default();
    let cases: Vec<Case> = Case::all()
        .into_iter()
        .filter(|case| case.name.contains(&wanted))
        .collect();
    assert!(!cases.is_empty(), "no case is named like {wanted:?}");
    let admin = ripstop_testkit::port::reserve();
    let file = bootstrap::join(&cases, admin.addr());

    let envoy = subject::envoy(&file, admin.addr());
    let expected = play(&cases);
    drop(envoy);
    let ripstop = subject::ripstop(&file, &cases);
    let actual = play(&cases);
    drop(ripstop);

    let mut wrong = String::new();
    for ((case, expected), actual) in cases.iter().zip(&expected).zip(&actual) {
        wrong.push_str(&compare::case(case, expected, actual));
        if std::env::var_os("SHOW").is_some() {
            println!("{}", compare::show(case, expected));
        }
    }
    if wanted.is_empty() {
        wrong.push_str(&compare::unused(&cases));
    }
    let allowed = differences::listed();
    assert!(wrong.is_empty(), "\n{wrong}\nallowed to differ:\n{allowed}");
    println!("{} cases alike, but for\n{allowed}", cases.len());
}

/// Plays every case against the program that runs now; what happened, in the order of the cases.
fn play(cases: &[Case]) -> Vec<Vec<exchange::Played>> {
    let results: Vec<Mutex<Vec<exchange::Played>>> =
        cases.iter().map(|_| Mutex::default()).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(cases.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(index) else { break };
                    *results[index].lock().expect("one writer") = exchange::play(case);
                }
            });
        }
    });
    results
        .into_iter()
        .map(|result| result.into_inner().expect("no writer left"))
        .collect()
}
