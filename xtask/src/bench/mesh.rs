//! A sidecar's memory in a mesh of 20 services of which its application uses 5, after a minute and one scrape.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use super::rss_of;

const SERVICES: usize = 20;
const USED: usize = 5;
const SETTLE_SECONDS: u32 = 60;

pub(super) fn rss(ripstop: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("mesh.yaml");
    fs::write(&file, mesh())?;
    let measured = folder.path().join("rss");
    fs::write(&measured, "")?;
    let urls: Vec<String> = (0..USED).map(|n| format!("http://service-{n}/")).collect();
    let script = format!(
        "for u in {}; do curl -sf -o /dev/null $u || exit 3; done; curl -sf -o /dev/null \"$RIPSTOP_METRICS\" || exit 4; sleep {}",
        urls.join(" "),
        SETTLE_SECONDS + 5
    );
    println!(
        "\nsidecar RSS: {SERVICES} services known, {USED} used, one scrape, after {SETTLE_SECONDS} s"
    );
    let mut up = Command::new(ripstop)
        .arg("up")
        .arg(&file)
        .arg("--state")
        .arg(folder.path().join("state"))
        .args(["--exec", &script])
        .stdout(std::process::Stdio::null())
        .spawn()?;
    std::thread::sleep(std::time::Duration::from_secs(u64::from(SETTLE_SECONDS)));
    let mut figures: Vec<(String, f64)> = sidecars(up.id());
    figures.sort_by(|a, b| a.0.cmp(&b.0));
    let status = up.wait()?;
    ensure!(
        status.success(),
        "the mesh ended with {status}: 3 is a service that did not answer, 4 the metrics"
    );
    for (name, mib) in figures {
        println!("{name:<40} {mib:.1} MiB");
    }
    Ok(())
}

/// Services 0 to 4 run; the others are known by name only.
fn mesh() -> String {
    let serve = "[python3, -m, http.server, '8080']";
    let running = (0..USED).map(|n| {
        format!("  - name: service-{n}\n    ports: [{{name: http, port: 80, targetPort: 8080}}]\n    workloads: [{{name: service-{n}, command: {serve}}}]\n")
    });
    let known = (USED..SERVICES)
        .map(|n| format!("  - name: service-{n}\n    ports: [{{name: http, port: 80}}]\n"));
    let services: String = running.chain(known).collect();
    format!(
        "apiVersion: ripstop.dev/v1alpha1\nkind: Mesh\nmetadata: {{name: bench}}\nspec:\n  services:\n{services}"
    )
}

/// The sidecars that a supervisor started, with what their command line says of them.
fn sidecars(supervisor: u32) -> Vec<(String, f64)> {
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))
        .unwrap_or_default();
    let pids = children
        .split_whitespace()
        .filter_map(|pid| pid.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .ok()?
            .replace('\0', " ");
        line.contains("--sidecar")
            .then(|| Some((format!("{} (pid {pid})", line.trim()), rss_of(pid)?)))?
    })
    .collect()
}
