use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use ripstop_model::snapshot::endpoint::{Health, Locality};
use ripstop_telemetry::Stats;

use super::*;

fn named(host: &str, port: u16) -> Endpoint {
    Endpoint {
        address: Target::Name {
            host: host.to_owned(),
            port,
        },
        weight: 3,
        health: Health::Unknown,
        hostname: None,
        transport: BTreeMap::new(),
        labels: BTreeMap::new(),
        workload: None,
    }
}

fn dns(endpoints: Vec<Endpoint>) -> Dns {
    Dns {
        endpoints: Arc::new(Endpoints {
            name: "c".into(),
            groups: vec![Group {
                locality: Locality::default(),
                priority: 0,
                weight: None,
                endpoints,
            }],
            overprovisioning: 140,
        }),
        family: DnsFamily::V4Only,
        refresh: Duration::from_secs(5),
        failure_refresh: Duration::from_secs(2),
        respect_ttl: true,
    }
}

fn known(entries: &[(&str, &[&str])]) -> Known {
    let parsed = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
    entries
        .iter()
        .map(|(name, list)| ((*name).to_owned(), parsed(list)))
        .collect()
}

fn addresses(endpoints: &Endpoints) -> Vec<String> {
    let all = endpoints.groups.iter().flat_map(|group| &group.endpoints);
    all.map(|endpoint| match &endpoint.address {
        Target::Socket(address) => address.to_string(),
        other => format!("{other:?}"),
    })
    .collect()
}

fn cluster(dns: Dns, old: Option<&Arc<Cluster>>) -> Arc<Cluster> {
    let text = "static_resources:\n  clusters:\n  - name: c\n    connect_timeout: 1s\n    type: STATIC\n    load_assignment: {cluster_name: c}\n";
    let parsed = ripstop_wire::bootstrap::parse(text).unwrap();
    let mut config = (*parsed.clusters[0]).clone();
    config.discovery = Discovery::StrictDns(dns);
    Arc::new(Cluster::new(
        Arc::new(config),
        old,
        &Stats::default(),
        &crate::tls::Secrets::new(None),
        None,
    ))
}

/// Answers from a script, the last entry for ever.
struct Script {
    asked: AtomicUsize,
    answers: Vec<Result<Answer, ()>>,
}

impl Script {
    fn new(answers: &[Result<&[&str], ()>]) -> Script {
        let answer = |list: &&[&str]| Answer {
            addresses: list.iter().map(|ip| ip.parse().unwrap()).collect(),
            ttl: Some(Duration::from_secs(10)),
        };
        Script {
            asked: AtomicUsize::new(0),
            answers: answers
                .iter()
                .map(|entry| (*entry).map(|list| answer(&list)))
                .collect(),
        }
    }
}

impl Lookup for Script {
    fn lookup<'a>(&'a self, name: &'a str, _: DnsFamily) -> Pending<'a, Result<Answer, Failure>> {
        let at = self.asked.fetch_add(1, Relaxed).min(self.answers.len() - 1);
        let answer = self.answers[at].clone().map_err(|()| Failure {
            name: name.to_owned(),
            reason: "scripted".to_owned(),
        });
        Box::pin(async move { answer })
    }
}

fn running(cluster: &Cluster) -> Vec<String> {
    let roster = cluster.roster();
    let members = roster.members();
    members
        .map(|member| match &member.endpoint.address {
            Target::Socket(address) => address.ip().to_string(),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn every_address_is_a_member_and_keeps_what_its_name_had() {
    let dns = dns(vec![
        named("a.test", 80),
        named("192.0.2.9", 81),
        named("b.test", 80),
    ]);
    let known = known(&[
        ("a.test", &["192.0.2.1", "192.0.2.2"]),
        ("b.test", &["192.0.2.2", "2001:db8::1"]),
    ]);
    let all = members(&dns.endpoints, &known, false);
    let expected = [
        "192.0.2.1:80",
        "192.0.2.2:80",
        "192.0.2.9:81",
        "[2001:db8::1]:80",
    ];
    assert_eq!(addresses(&all), expected);
    let first = &all.groups[0].endpoints[0];
    assert_eq!(
        (first.weight, first.hostname.as_deref()),
        (3, Some("a.test"))
    );
    let logical = members(&dns.endpoints, &known, true);
    assert_eq!(
        addresses(&logical),
        ["192.0.2.1:80", "192.0.2.9:81", "192.0.2.2:80"]
    );
}

#[test]
fn the_next_question_follows_the_answer() {
    let mut dns = dns(Vec::new());
    let answer = |ttl| {
        Ok(Answer {
            addresses: Vec::new(),
            ttl,
        })
    };
    let seconds = Duration::from_secs;
    assert_eq!(pause(&answer(Some(seconds(20))), &dns), seconds(20));
    assert_eq!(pause(&answer(Some(seconds(0))), &dns), seconds(5));
    assert_eq!(pause(&answer(Some(seconds(86_400))), &dns), RAREST);
    assert_eq!(pause(&answer(None), &dns), seconds(5));
    let failure = Failure {
        name: String::new(),
        reason: String::new(),
    };
    assert_eq!(pause(&Err(failure), &dns), seconds(2));
    dns.respect_ttl = false;
    dns.refresh = Duration::ZERO;
    assert_eq!(pause(&answer(Some(seconds(20))), &dns), OFTENEST);
}

#[tokio::test(start_paused = true)]
async fn members_follow_answers_and_outlive_failures() {
    let running_cluster = cluster(dns(vec![named("a.test", 80)]), None);
    assert!(!running_cluster.is_settled());
    let script = Script::new(&[
        Ok(&["192.0.2.1", "192.0.2.2"]),
        Err(()),
        Ok(&["192.0.2.2", "192.0.2.3"]),
        Ok(&[]),
    ]);
    let following = follow(&running_cluster, &script);
    tokio::pin!(following);
    let mut after = async |millis| {
        let limit = Duration::from_millis(millis);
        let _ = tokio::time::timeout(limit, &mut following).await;
    };
    after(100).await;
    assert!(running_cluster.is_settled());
    assert_eq!(running(&running_cluster), ["192.0.2.1", "192.0.2.2"]);
    let kept = running_cluster
        .roster()
        .members()
        .nth(1)
        .unwrap()
        .load
        .clone();
    after(10_000).await;
    assert_eq!(running(&running_cluster), ["192.0.2.1", "192.0.2.2"]);
    after(2_000).await;
    assert_eq!(running(&running_cluster), ["192.0.2.2", "192.0.2.3"]);
    let now = running_cluster
        .roster()
        .members()
        .next()
        .unwrap()
        .load
        .clone();
    assert!(Arc::ptr_eq(&kept, &now));
    after(10_000).await;
    assert!(running(&running_cluster).is_empty());
    assert_eq!(running_cluster.stats.update_attempt.read(), 4);
    assert_eq!(running_cluster.stats.update_failure.read(), 1);
    assert_eq!(running_cluster.stats.update_empty.read(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_first_answer_even_if_it_is_a_failure() {
    let waiting = cluster(dns(vec![named("a.test", 80)]), None);
    let script = Script::new(&[Err(())]);
    let waiter = waiting.clone();
    let settled = tokio::spawn(async move { waiter.settled().await });
    let _ = tokio::time::timeout(Duration::from_secs(1), follow(&waiting, &script)).await;
    settled.await.unwrap();
    assert!(running(&waiting).is_empty());
}

#[test]
fn what_is_known_survives_a_push_of_the_same_names() {
    let first = cluster(dns(vec![named("192.0.2.1", 80)]), None);
    assert!(first.is_settled());
    assert_eq!(running(&first), ["192.0.2.1"]);
    let named_cluster = cluster(dns(vec![named("a.test", 80)]), Some(&first));
    assert!(!named_cluster.is_settled());
    assert!(running(&named_cluster).is_empty());
    let endpoints = members(
        &dns(vec![named("a.test", 80)]).endpoints,
        &known(&[("a.test", &["192.0.2.5"])]),
        false,
    );
    named_cluster.replace(Arc::new(endpoints));
    named_cluster.settle();
    let mut changed = dns(vec![named("a.test", 80)]);
    changed.refresh = Duration::from_secs(9);
    let after = cluster(changed, Some(&named_cluster));
    assert!(after.is_settled());
    assert_eq!(running(&after), ["192.0.2.5"]);
}

#[tokio::test]
async fn the_hosts_file_is_asked() {
    let system = System::default();
    let answer = system.lookup("localhost", DnsFamily::V4Only).await;
    match answer {
        Ok(answer) => assert_eq!(answer.addresses, ["127.0.0.1".parse::<IpAddr>().unwrap()]),
        Err(error) => {
            panic!("{error}: /etc/hosts must name localhost, and /etc/resolv.conf must be readable")
        }
    }
}
