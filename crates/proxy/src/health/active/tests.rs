use ripstop_model::snapshot::cluster::Probe;

use super::*;

fn check() -> HealthCheck {
    HealthCheck {
        timeout: Duration::from_secs(1),
        interval: Duration::from_secs(5),
        no_traffic_interval: Duration::from_secs(60),
        unhealthy_threshold: 3,
        healthy_threshold: 2,
        probe: Probe::Tcp {
            send: Vec::new(),
            receive: Vec::new(),
        },
    }
}

fn after(mut standing: Standing, outcomes: &[Outcome]) -> Vec<bool> {
    let check = check();
    outcomes
        .iter()
        .map(|outcome| standing.take(*outcome, &check))
        .collect()
}

use Outcome::{Refused, Silent};
const PASSED: Outcome = Outcome::Passed { degraded: false };

#[test]
fn the_first_good_probe_of_a_new_member_is_enough() {
    assert_eq!(after(Standing::new(None), &[PASSED]), [true]);
    // Once it failed, it takes two.
    assert_eq!(
        after(Standing::new(None), &[Silent, PASSED, PASSED]),
        [false, false, true]
    );
}

#[test]
fn silence_is_counted_and_a_no_is_believed() {
    let healthy = || Standing::new(Some(true));
    assert_eq!(
        after(healthy(), &[Silent, Silent, PASSED, Silent, Silent, Silent]),
        [true, true, true, true, true, false]
    );
    assert_eq!(after(healthy(), &[Refused]), [false]);
    assert_eq!(
        after(
            Standing::new(Some(false)),
            &[PASSED, Silent, PASSED, PASSED]
        ),
        [false, false, false, true]
    );
}

#[test]
fn a_member_is_healthy_when_all_checks_say_so() {
    let verdicts = Verdicts::default();
    assert!(!verdicts.set(0, false));
    assert!(!verdicts.set(1, false));
    assert!(!verdicts.set(0, true));
    assert!(verdicts.set(1, true));
}

#[test]
fn an_unused_cluster_is_probed_less_often() {
    assert_eq!(pause(&check(), false), Duration::from_secs(60));
    assert_eq!(pause(&check(), true), Duration::from_secs(5));
}
