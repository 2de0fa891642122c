//! What a control plane says of its resources while a mesh lives: who joins, what is applied twice, what cannot change.

use std::fs;
use std::time::Duration;

use ripstop_control::api::message::{Port, Register, ResourceStatus};
use ripstop_control::plane::{Caller, PlaneError};
use ripstop_control::{Options, Running, start};
use ripstop_model::intent::{Key, Kind};

const MESH: &str = "apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: shop}
spec:
  services:
  - name: front
    ports: [{name: http, port: 80}]
    workloads: [{command: [front]}]
";
const ROUTE: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: joined}
spec:
  hosts: [joined]
  http: [{route: [{destination: {host: joined, port: {number: 80}, subset: v1}}]}]
";
const RULE: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: joined}
spec: {host: joined, subsets: [{name: v1, labels: {version: v1}}]}
";

struct Lab {
    dir: tempfile::TempDir,
    running: Running,
}

impl Lab {
    async fn new(files: &[(&str, &str)]) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        fs::create_dir(&config).unwrap();
        for (name, text) in files {
            fs::write(config.join(name), text).unwrap();
        }
        let mut options = Options::new(dir.path().join("state"));
        options.sources = vec![config.display().to_string()];
        let running = start(options).await.unwrap();
        Lab { dir, running }
    }

    fn config(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("config").join(name)
    }

    fn standing(&self) -> Vec<ResourceStatus> {
        self.running.plane().status().resources
    }

    /// Everything that is said of resources.
    fn said(&self) -> Vec<String> {
        let standing = self.standing().into_iter();
        standing.flat_map(|resource| resource.messages).collect()
    }

    async fn until(&self, holds: impl Fn(&Lab) -> bool) {
        for _ in 0..600 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:#?}", self.standing());
    }
}

fn local() -> Caller {
    Caller {
        local: true,
        ..Caller::default()
    }
}

fn member() -> Register {
    let port = Port {
        name: "http".into(),
        port: 80,
        target_port: Some(8080),
        protocol: None,
        publish: None,
    };
    Register {
        namespace: "default".into(),
        service: "joined".into(),
        labels: [("version".into(), "v1".into())].into(),
        ports: vec![port],
        ready: true,
        service_account: String::new(),
        workload: String::new(),
        replica: None,
        host: String::new(),
        advertise: None,
        headless: false,
    }
}

#[tokio::test]
async fn services_that_joined_are_known_until_they_leave() {
    let lab = Lab::new(&[
        ("mesh.yaml", MESH),
        ("route.yaml", ROUTE),
        ("rule.yaml", RULE),
    ])
    .await;
    let alone = lab.said();
    let unknown = |said: &[String]| {
        said.iter()
            .any(|said| said.contains("no service is called"))
    };
    assert!(unknown(&alone), "{alone:#?}");
    let plane = lab.running.plane();
    let registered = plane.register(member(), &local()).unwrap();
    assert_eq!(lab.said(), [""; 0]);
    assert!(
        plane
            .apply(ROUTE.replace("name: joined}", "name: another}").as_str())
            .unwrap()
            .diagnostics
            .iter()
            .all(|d| d["code"] != "unknown-host")
    );
    plane
        .delete(&Key {
            kind: Kind::VirtualService,
            namespace: "default".into(),
            name: "another".into(),
        })
        .unwrap();
    plane.deregister(&registered.id, &local()).unwrap();
    assert_eq!(lab.said(), alone);
    lab.running.stop().await;
}

#[tokio::test]
async fn what_was_applied_is_taken_back_although_a_file_declares_it() {
    let lab = Lab::new(&[("mesh.yaml", MESH)]).await;
    let rule = RULE.replace("joined", "front");
    let plane = lab.running.plane();
    plane.apply(&rule).unwrap();
    fs::write(lab.config("rule.yaml"), &rule).unwrap();
    lab.until(|lab| {
        lab.said()
            .iter()
            .any(|said| said.contains("declared twice"))
    })
    .await;
    let said = lab.said().join("\n");
    assert!(
        said.contains("ripstop delete destinationrule front -n default"),
        "{said}"
    );
    let key = Key {
        kind: Kind::DestinationRule,
        namespace: "default".into(),
        name: "front".into(),
    };
    plane.delete(&key).unwrap();
    let said = lab.said().join("\n");
    assert!(!said.contains("declared twice"), "{said}");
    assert!(matches!(plane.delete(&key), Err(PlaneError::InFile { .. })));
    fs::remove_file(lab.config("rule.yaml")).unwrap();
    lab.until(|lab| lab.standing().len() == 1).await;
    lab.running.stop().await;
}

#[tokio::test]
async fn another_trust_domain_is_not_accepted() {
    let lab = Lab::new(&[("mesh.yaml", MESH)]).await;
    assert!(lab.standing()[0].accepted);
    let other = MESH.replace("spec:", "spec:\n  trustDomain: other.example");
    fs::write(lab.config("mesh.yaml"), other).unwrap();
    lab.until(|lab| !lab.standing()[0].accepted).await;
    let said = lab.said().join("\n");
    assert!(
        said.contains("mesh.yaml:5:") && said.contains("`cluster.local`, not `other.example`"),
        "{said}"
    );
    fs::write(lab.config("mesh.yaml"), MESH).unwrap();
    lab.until(|lab| lab.standing()[0].accepted && lab.said().is_empty())
        .await;
    lab.running.stop().await;
}
