//! What a control plane knows when it starts again: nothing that was in force is lost to a folder that is away or to a bad edit.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ripstop_control::api::message::ResourceStatus;
use ripstop_control::{Options, Running, start};

const ENTRY: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec: {hosts: [api.example.com], resolution: DNS, ports: [{number: 80, name: http}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api}
spec:
  hosts: [api.example.com]
  http: [{timeout: 2s, route: [{destination: {host: api.example.com}}]}]
";

async fn control(state: &Path, config: &Path) -> Running {
    let mut options = Options::new(state);
    options.sources = vec![config.display().to_string()];
    start(options).await.unwrap()
}

fn standing(running: &Running) -> Vec<ResourceStatus> {
    running.plane().status().resources
}

#[tokio::test]
async fn a_restart_loses_nothing_that_was_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let (state, config) = (dir.path().join("state"), dir.path().join("config"));
    fs::create_dir(&config).unwrap();
    fs::write(config.join("api.yaml"), ENTRY).unwrap();
    let running = control(&state, &config).await;
    assert!(standing(&running).iter().all(|resource| resource.accepted));
    running.stop().await;

    // The folder is away: its resources stay, and the status says why.
    let away = dir.path().join("away");
    fs::rename(&config, &away).unwrap();
    let running = control(&state, &config).await;
    let status = running.plane().status();
    assert!(status.sources[0].error.is_some(), "{:?}", status.sources);
    let kept: Vec<_> = status
        .resources
        .iter()
        .map(|r| (r.resource.as_str(), r.last_good))
        .collect();
    assert_eq!(
        kept,
        [
            ("VirtualService/default/api", true),
            ("ServiceEntry/default/api", true)
        ]
    );
    assert_eq!(running.plane().services()[0].host, "api.example.com");
    running.stop().await;

    // It comes back with a bad edit of one resource.
    fs::rename(&away, &config).unwrap();
    fs::write(config.join("api.yaml"), ENTRY.replace("timeout", "timeoot")).unwrap();
    let running = control(&state, &config).await;
    let status = running.plane().status();
    assert_eq!(status.sources[0].error, None);
    let route = &status.resources[0];
    assert!(route.last_good && !route.accepted, "{route:?}");
    assert!(route.messages[0].contains("timeoot"), "{route:?}");
    assert!(status.resources[1].accepted && !status.resources[1].last_good);

    // And is mended while the control plane runs.
    fs::write(config.join("api.yaml"), ENTRY).unwrap();
    for _ in 0..600 {
        if standing(&running).iter().all(|resource| resource.accepted) {
            running.stop().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{:#?}", standing(&running));
}
