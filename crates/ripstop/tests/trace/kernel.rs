//! A statically linked service → its calls in the trace, by the kernel's word, where it may be asked; and nothing of that
//! in the kernel once the sidecar is gone, however it went.

use std::fs;
use std::path::Path;
use std::process::Command;

use ripstop_host::trace::kernel::{Unavailable, available};
use ripstop_testkit::caller::Caller;
use ripstop_testkit::http;
use ripstop_testkit::otlp::{Collector, Span};
use ripstop_testkit::port::{Port, reserve};
use ripstop_testkit::process::{Guard, alive, children, command_line, signal_pid};
use ripstop_testkit::wait::{until_true, within};

use super::PATIENCE;

const MESH: &str = r#"
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: kernel}
spec:
  tracing: {otlp: "COLLECTOR"}
  services:
  - name: seen
    ports: [{name: http, port: 80, targetPort: 8080, publish: "SEEN"}]
    workloads: [{name: seen, command: [./static, seen]}]
  - name: quiet
    ports: [{name: http, port: 80, targetPort: 8080, publish: "QUIET"}]
    workloads: [{name: quiet, command: [./static, quiet], hooks: {kernel: false}}]
  - name: leaf
    ports: [{name: http, port: 80, targetPort: 8080}]
    workloads: [{name: leaf, command: [python3, leaf.py]}]
"#;

/// Compiles static.c into `folder`.
pub(super) fn build(folder: &Path) {
    let source = ripstop_testkit::root().join("crates/ripstop/tests/trace/static.c");
    let mut compiler = Command::new(ripstop_testkit::program("musl-gcc"));
    compiler.args(["-O2", "-static", "-o"]);
    let built = compiler.arg(folder.join("static")).arg(source).status();
    assert!(built.is_ok_and(|status| status.success()));
}

/// Whether the kernel may be asked here. A program that it refuses is ours to mend, and no reason.
pub(super) fn permitted() -> bool {
    match available() {
        Ok(()) => true,
        Err(error @ (Unavailable::Refused(_) | Unavailable::Format)) => panic!("{error}"),
        Err(error) => {
            eprintln!("only what is unattributed is tested: {error}");
            false
        }
    }
}

#[test]
fn a_static_program_is_followed_by_the_kernel_until_its_sidecar_ends() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (collector, seen, quiet) = (Collector::start(), reserve(), reserve());
    build(folder.path());
    let source = ripstop_testkit::root().join("crates/ripstop/tests/trace");
    fs::copy(source.join("leaf.py"), folder.path().join("leaf.py")).expect("the test's own file");
    let mesh = MESH
        .replace("COLLECTOR", &collector.endpoint())
        .replace("SEEN", &seen.addr().to_string())
        .replace("QUIET", &quiet.addr().to_string());
    fs::write(folder.path().join("mesh.yaml"), mesh).expect("a writable folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    command.arg("up").arg(folder.path().join("mesh.yaml"));
    command.arg("--state").arg(folder.path().join("state"));
    let mut mesh = Guard::spawn("up", &mut command);
    mesh.line_with("is up", PATIENCE);

    if permitted() {
        followed(&mesh);
    }
    ask(&seen, "seen", 0..20);
    ask(&quiet, "quiet", 0..5);
    // A sidecar that is killed takes spans along that it has not sent yet.
    let arrived = |by: &str, id: u32| {
        let there = || calls(&collector.spans(), by, id).len() == 1;
        until_true(PATIENCE, "the spans", there);
    };
    arrived("seen", 19);
    arrived("quiet", 4);
    let mut expected = 0;
    if permitted() {
        let sidecar = sidecar(&mesh, "seen");
        let programs = programs(sidecar);
        assert_eq!(programs.len(), 3, "{}", mesh.report());
        assert!(self::programs(self::sidecar(&mesh, "quiet")).is_empty());
        signal_pid(sidecar, libc::SIGKILL).expect("our own process");
        until_true(PATIENCE, "its end", || !alive(sidecar));
        gone(&programs);
        followed(&mesh);
        expected = 15;
    }
    ask(&seen, "seen", 20..40);
    let last = permitted().then(|| programs(sidecar(&mesh, "seen")));

    arrived("seen", 39);
    let spans = collector.spans();
    for range in [0..20, 20..40] {
        let causes = range.clone().flat_map(|id| judged(&spans, "seen", id));
        let by_kernel = causes.filter(|cause| cause == "kernel").count();
        assert!(
            by_kernel >= expected,
            "{by_kernel} of {range:?}: {:#?}",
            calls(&spans, "seen", range.end - 1)
        );
    }
    for id in 0..5 {
        let causes = judged(&spans, "quiet", id);
        assert!(
            causes.iter().all(|cause| cause == "unattributed"),
            "{causes:?}"
        );
    }
    mesh.terminate(PATIENCE);
    if let Some(last) = last {
        assert_eq!(last.len(), 3);
        gone(&last);
    }
}

#[test]
fn an_ordinary_user_who_asks_for_it_is_told_why_not() {
    let folder = ripstop_testkit::caller::folder("kernel");
    let binary = Path::new(env!("CARGO_BIN_EXE_ripstop"));
    let binary = ripstop_testkit::caller::copy(binary, folder.path());
    let mut command = Caller::Ordinary.command(&binary);
    command.current_dir(folder.path());
    command.args([
        "run",
        "--service-account",
        "a",
        "--hooks",
        "kernel",
        "--",
        "true",
    ]);
    let output = command.output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in [
        "--hooks kernel is not possible here",
        "CAP_BPF and CAP_PERFMON",
    ] {
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn an_ordinary_users_sidecar_says_why_it_does_not_look() {
    let folder = ripstop_testkit::caller::folder("kernel");
    let binary = Path::new(env!("CARGO_BIN_EXE_ripstop"));
    let binary = ripstop_testkit::caller::copy(binary, folder.path());
    build(folder.path());
    let (published, state) = (reserve(), folder.path().join("state"));
    let one = MESH.split("  - name: quiet").next().expect("its beginning");
    let one = one.replace("tracing: {otlp: \"COLLECTOR\"}", "tracing: {}");
    let one = one.replace("SEEN", &published.addr().to_string());
    fs::write(folder.path().join("mesh.yaml"), one).expect("a writable folder");
    let mut command = Caller::Ordinary.command(&binary);
    command.current_dir(folder.path());
    command.args(["up", "mesh.yaml", "--state"]).arg(&state);
    let mut mesh = Guard::spawn("up", &mut command);
    mesh.line_with("is up", PATIENCE);
    let log = state.join("log/seen-0.default.sidecar.log");
    until_true(PATIENCE, "the reason", || {
        let said = fs::read_to_string(&log).unwrap_or_default();
        said.contains("stay unattributed") && said.contains("CAP_BPF and CAP_PERFMON")
    });
    mesh.terminate(PATIENCE);
}

fn ask(port: &Port, host: &str, ids: std::ops::Range<u32>) {
    for id in ids {
        until_true(PATIENCE, "an answer", || {
            http::get(port.addr(), host, &format!("/?id={id}"))
                .is_ok_and(|response| response.status == 200)
        });
    }
}

/// The calls that a service made for a request.
fn calls<'a>(spans: &'a [Span], by: &str, id: u32) -> Vec<&'a Span> {
    let of = format!("id={id}&by={by}");
    let mine = |span: &&Span| {
        let url = span.attributes.get("http.url");
        span.kind == 3 && url.is_some_and(|url| url.ends_with(&of))
    };
    spans.iter().filter(mine).collect()
}

/// Their causes; none may be under another request.
fn judged(spans: &[Span], by: &str, id: u32) -> Vec<String> {
    let calls = calls(spans, by, id).into_iter();
    let judge = |call: &Span| {
        if let Some(parent) = spans.iter().find(|span| span.span_id == call.parent_id) {
            let asked = &parent.attributes["http.url"];
            assert!(
                asked.ends_with(&format!("?id={id}")),
                "{call:#?} under {asked}"
            );
        }
        call.attributes["ripstop.trace.cause"].clone()
    };
    calls.map(judge).collect()
}

/// The sidecar of a workload, by the log that it writes.
fn sidecar(mesh: &Guard, workload: &str) -> u32 {
    let of = |pid: &u32| {
        let log = fs::read_link(format!("/proc/{pid}/fd/2")).unwrap_or_default();
        let log = log.to_string_lossy().into_owned();
        command_line(*pid).contains("proxy --sidecar") && log.contains(&format!("/{workload}-"))
    };
    let found = within(PATIENCE, || children(mesh.pid()).into_iter().find(of));
    found.unwrap_or_else(|| panic!("{workload} has no sidecar"))
}

/// The sidecar looks for programs while the application starts.
fn followed(mesh: &Guard) {
    until_true(PATIENCE, "programs in the kernel", || {
        programs(sidecar(mesh, "seen")).len() == 3
    });
}

/// Numbers of the programs that a process holds in the kernel.
fn programs(pid: u32) -> Vec<u32> {
    let folder = fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let texts = folder
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let mut found: Vec<u32> = texts
        .filter_map(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("prog_id:"))?;
            line.trim().parse().ok()
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The kernel frees what nobody holds in its own time.
fn gone(programs: &[u32]) {
    /// bpf(2), BPF_PROG_GET_FD_BY_ID.
    const BY_NUMBER: libc::c_int = 13;
    let is_there = |number: &u32| {
        let request = [*number, 0, 0];
        // SAFETY: the request is as large as told; it gives a descriptor, which is closed.
        unsafe {
            let found = libc::syscall(libc::SYS_bpf, BY_NUMBER, request.as_ptr(), 12);
            if found >= 0 {
                libc::close(found as libc::c_int);
            }
            found >= 0
        }
    };
    until_true(PATIENCE, "the programs' end", || {
        !programs.iter().any(is_there)
    });
}
