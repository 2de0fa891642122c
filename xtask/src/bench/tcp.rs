//! W3: CPU time per GB of opaque TCP, through ripstop and its peers, as ratios within one run.

use std::path::Path;

use anyhow::Context;

use super::Spread;
use super::process::{Running, pinned, wait_for};
use super::report::{Bar, Report};
use super::subject::{BACKEND, Ground, Shape};

const REPETITIONS: usize = 5;
const MIB: usize = 512;

/// What is measured, and how many times a peer's CPU ripstop may take at most.
const WORKLOADS: [(Shape, &str, &str, f64, &str); 2] = [
    (Shape::TcpHop, "W3", "relay", 1.1, "1.1 × the raw relay"),
    (
        Shape::TcpPair,
        "W3 pair",
        "envoy",
        0.75,
        "0.75 × Envoy's pair",
    ),
];

pub(super) fn measure(root: &Path, ripstop: &Path, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let program = [ripstop.into()];
    let ground = Ground::new(root, &program, folder.path())?;
    let peer = |arguments: &[&str]| -> anyhow::Result<_> {
        let mut command = pinned(&ground.others);
        command.arg(std::env::current_exe()?).arg("bench-peer");
        command.args(arguments);
        Ok(command)
    };
    let _pouring = Running::start(&mut peer(&[
        "pour",
        &BACKEND.to_string(),
        &MIB.to_string(),
    ])?)?;
    wait_for(BACKEND)?;
    for (shape, name, beside, most, text) in WORKLOADS {
        let mut subjects = ground.subjects(shape)?;
        for _ in 0..REPETITIONS {
            for subject in &mut subjects {
                let before = subject.cpu()?;
                let output = peer(&["drink", &subject.port.to_string()])?.output()?;
                let said = String::from_utf8_lossy(&output.stdout);
                let bytes: f64 = said
                    .trim()
                    .parse()
                    .with_context(|| format!("{}: {said}", subject.name))?;
                subject.costs.push((subject.cpu()? - before) * 1e9 / bytes);
            }
        }
        report.section(&format!(
            "{name}: CPU seconds per GB of TCP, one connection, {REPETITIONS} × {MIB} MiB interleaved"
        ));
        let mut medians = Vec::new();
        for subject in &subjects {
            let costs = Spread::of(subject.costs.clone());
            medians.push((subject.name, costs.median()));
            let (least, most) = (costs.at(0.0), costs.at(1.0));
            println!(
                "  {:<16} {:>10.2} ({least:.2} – {most:.2})",
                subject.name,
                costs.median()
            );
        }
        let of = |wanted: &str| medians.iter().find(|(name, _)| *name == wanted);
        let ratio = match (of("ripstop"), of(beside)) {
            (Some((_, own)), Some((_, peer))) => own / peer,
            _ => f64::NAN,
        };
        let met = ratio <= most;
        report.judge(
            &format!("{name}: CPU per GB"),
            &format!("{ratio:.2} × {beside}"),
            &Bar { text, met },
        );
    }
    Ok(())
}
