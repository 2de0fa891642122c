//! Every directory of `testdata` is a mesh: `in.yaml` holds its resources, `case.yaml` says who joins, who asks and what to show;
//! `snapshot.txt` is what that client runs, `status.yaml` the standing of the resources. `UPDATE=1` writes the last two anew.
//!
//! Whatever a mesh compiles to, for a ripstop sidecar and for a stock Envoy, goes through the wire and back unchanged (R3.3).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ripstop_control::address::{Allocator, Pool, Ranges};
use ripstop_control::api::message::{Readiness, Register};
use ripstop_control::compile::compile;
use ripstop_control::registry::{Registry, Workloads};
use ripstop_control::settings::Settings;
use ripstop_control::source::Change;
use ripstop_control::store::Store;
use ripstop_control::view::{Client, Mesh, Scope, View};
use ripstop_model::discovery::Resource;
use ripstop_model::snapshot::Snapshot;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What this is about.
    about: String,
    #[serde(default)]
    defaults: String,
    #[serde(default)]
    join: Vec<Register>,
    /// Workload ids that are draining.
    #[serde(default)]
    draining: Vec<String>,
    #[serde(default)]
    client: Asking,
    /// `listener HOST:PORT`, `inbound NAME`, `route HOST:PORT`, `cluster NAME`, `endpoints NAME`, `host NAME`, or `names all`: of
    /// everything that the client would be sent.
    show: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Asking {
    namespace: String,
    labels: BTreeMap<String, String>,
    /// A workload id.
    is: String,
    stock: bool,
    host: String,
}

struct Built {
    store: Store,
    mesh: Mesh,
    workloads: Workloads,
}

fn build(resources: &str, case: &Case) -> Built {
    let (now, ranges) = (Instant::now(), Ranges::default());
    let mut allocator = Allocator::default();
    let mut registry = Registry::default();
    for request in &case.join {
        registry
            .register(request.clone(), &mut allocator, &ranges, now)
            .unwrap();
    }
    for id in &case.draining {
        assert!(registry.report(id, Readiness::Draining, now), "{id}");
    }
    let mut store = Store::default();
    store.change(Change::Listing {
        source: "in.yaml".into(),
        files: vec![("in.yaml".to_owned(), resources.to_owned())],
        problems: Vec::new(),
    });
    let workloads = registry.workloads(now);
    let members: Vec<_> = workloads.by_id.values().map(|p| p.member.clone()).collect();
    let mut settings = Settings {
        // The log format is the same everywhere and would be most of every golden file.
        access_logs: Vec::new(),
        ..Settings::default()
    };
    if case.defaults == "istio" {
        settings.defaults = ripstop_model::intent::mesh::Defaults::Istio;
    }
    let mut vips = |host: &str| {
        let (index, _) = allocator.index(Pool::Vip, host, &ranges).unwrap();
        ranges.vips(index).to_vec()
    };
    let mesh = Mesh::new(1, settings, &store.configuration(), &members, &mut vips);
    Built {
        store,
        mesh,
        workloads,
    }
}

fn client(built: &Built, asking: &Asking) -> Client {
    let member = built
        .workloads
        .by_id
        .get(asking.is.as_str())
        .map(|p| p.member.clone());
    assert!(
        asking.is.is_empty() || member.is_some(),
        "no workload {}",
        asking.is
    );
    match member {
        Some(member) => Client {
            namespace: member.namespace.to_string(),
            labels: member.labels.clone(),
            service_account: member.service_account.to_string(),
            host: member.host.clone(),
            member: Some(member),
            stock: asking.stock,
            captured: true,
        },
        None => Client {
            namespace: if asking.namespace.is_empty() {
                "default".to_owned()
            } else {
                asking.namespace.clone()
            },
            labels: asking.labels.clone(),
            service_account: "client".to_owned(),
            host: asking.host.clone(),
            member: None,
            stock: asking.stock,
            captured: true,
        },
    }
}

fn shown(built: &Built, client: &Client, show: &[String]) -> String {
    let mut text = String::new();
    for what in show {
        let (kind, name) = what.split_once(' ').unwrap_or_else(|| panic!("`{what}`"));
        let mut wanted = ripstop_control::view::Wanted::default();
        let set = match kind {
            "listener" => {
                let (host, port) = name.rsplit_once(':').unwrap();
                let known = built
                    .mesh
                    .service(host)
                    .unwrap_or_else(|| panic!("no {host}"));
                wanted
                    .listeners
                    .insert(format!("{}_{port}", known.vips[0]).into());
                None
            }
            "inbound" => Some(&mut wanted.listeners),
            "route" => Some(&mut wanted.routes),
            "cluster" => Some(&mut wanted.clusters),
            "endpoints" => Some(&mut wanted.endpoints),
            "host" => Some(&mut wanted.hosts),
            "names" => {
                text.push_str(&format!("# {what}\n{}", names(built, client)));
                continue;
            }
            other => panic!("`{other}`"),
        };
        if let Some(set) = set {
            set.insert(name.into());
        }
        let scope = Scope::Named(wanted);
        let snapshot = compile(&View {
            mesh: &built.mesh,
            workloads: &built.workloads,
            client,
            scope: &scope,
        });
        text.push_str(&format!("# {what}\n"));
        let found = resources(&snapshot);
        if found.is_empty() && snapshot.hosts.is_empty() {
            text.push_str("none\n");
        }
        for host in snapshot.hosts.values() {
            text.push_str(&format!("{host:#?}\n"));
        }
        for resource in found {
            text.push_str(&match resource {
                Resource::Listener(x) => format!("{x:#?}\n"),
                Resource::Route(x) => format!("{x:#?}\n"),
                Resource::Cluster(x) => format!("{x:#?}\n"),
                Resource::Endpoints(x) => format!("{x:#?}\n"),
                other => format!("{other:#?}\n"),
            });
        }
    }
    text
}

fn names(built: &Built, client: &Client) -> String {
    let all = compile(&View {
        mesh: &built.mesh,
        workloads: &built.workloads,
        client,
        scope: &Scope::All,
    });
    resources(&all)
        .iter()
        .map(|resource| format!("{} {}\n", resource.kind().as_str(), resource.name()))
        .collect()
}

fn resources(snapshot: &Snapshot) -> Vec<Resource> {
    let mut all: Vec<Resource> = Vec::new();
    all.extend(snapshot.clusters.values().cloned().map(Resource::Cluster));
    all.extend(
        snapshot
            .endpoints
            .values()
            .cloned()
            .map(Resource::Endpoints),
    );
    all.extend(snapshot.listeners.values().cloned().map(Resource::Listener));
    all.extend(snapshot.routes.values().cloned().map(Resource::Route));
    all
}

/// Encodes and decodes everything a client could be sent.
fn travels(built: &Built, client: &Client, case: &str) {
    let snapshot = compile(&View {
        mesh: &built.mesh,
        workloads: &built.workloads,
        client,
        scope: &Scope::All,
    });
    let mut all = resources(&snapshot);
    all.push(Resource::Ranges(snapshot.ranges.clone()));
    all.extend(snapshot.hosts.values().cloned().map(Resource::Host));
    for resource in all {
        let encoded = ripstop_wire::resource::encode(&resource);
        let decoded =
            ripstop_wire::resource::decode(resource.kind(), &encoded.name, &encoded.bytes)
                .unwrap_or_else(|rejection| panic!("{case}: {rejection}"));
        assert!(
            decoded.warnings.is_empty(),
            "{case}: {:?}",
            decoded.warnings
        );
        if decoded.resource != resource {
            let (was, is) = (format!("{resource:#?}"), format!("{:#?}", decoded.resource));
            let lines = was.lines().zip(is.lines()).filter(|(a, b)| a != b);
            let lines: Vec<_> = lines.take(3).collect();
            panic!("{case}: {} does not travel: {lines:#?}", encoded.name);
        }
    }
}

fn compare(path: &Path, now: &str, wrong: &mut Vec<String>) {
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, now).unwrap();
        return;
    }
    let golden = fs::read_to_string(path).unwrap_or_default();
    if golden != now {
        let line = golden.lines().zip(now.lines()).position(|(a, b)| a != b);
        let line = line.unwrap_or_else(|| golden.lines().count().min(now.lines().count()));
        wrong.push(format!(
            "{} differs from line {}:\n  was {:?}\n  is  {:?}",
            path.display(),
            line + 1,
            golden.lines().nth(line).unwrap_or_default(),
            now.lines().nth(line).unwrap_or_default(),
        ));
    }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    cases
}

fn read(folder: &Path) -> (String, Case) {
    let resources = fs::read_to_string(folder.join("in.yaml")).unwrap();
    let case = fs::read_to_string(folder.join("case.yaml")).unwrap();
    let case: Case =
        serde_saphyr::from_str(&case).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    assert!(!case.about.is_empty(), "{}", folder.display());
    (resources, case)
}

#[test]
fn golden() {
    let mut wrong = Vec::new();
    let folders = cases();
    assert!(folders.len() >= 20, "{} cases", folders.len());
    for folder in folders {
        let (resources, case) = read(&folder);
        let built = build(&resources, &case);
        let client = client(&built, &case.client);
        compare(
            &folder.join("snapshot.txt"),
            &shown(&built, &client, &case.show),
            &mut wrong,
        );
        let status = serde_saphyr::to_string(&built.store.resources()).unwrap();
        compare(&folder.join("status.yaml"), &status, &mut wrong);
    }
    assert!(
        wrong.is_empty(),
        "{}\n\nlook at the difference; UPDATE=1 accepts it",
        wrong.join("\n")
    );
}

#[test]
fn all_that_is_compiled_travels() {
    for folder in cases() {
        let (resources, case) = read(&folder);
        let built = build(&resources, &case);
        for stock in [false, true] {
            for captured in [false, true] {
                let client = Client {
                    stock,
                    captured,
                    ..client(&built, &case.client)
                };
                travels(&built, &client, &folder.display().to_string());
            }
        }
    }
}
