//! MariaDB, PostgreSQL and nginx as they are, on ports that name no protocol: no hang, their own clients are answered, the
//! connections between sidecars are mTLS. As root, those that change their user do (R11.1).

use ripstop_testkit::process::below;
use ripstop_testkit::program;

use crate::lab::{Caller, Lab, PATIENCE, STRICT, callers};

const SERVERS: &str = "
  services:
  - name: maria
    ports: [{port: 3306}]
    workloads: [{command: [sh, servers.sh, mariadb]}]
  - name: postgres
    ports: [{port: 5432}]
    workloads: [{command: [sh, servers.sh, postgres], user: nobody}]
  - name: web
    ports: [{port: 8000, targetPort: 8080}]
    workloads: [{command: [sh, servers.sh, nginx]}]
";

const CHECKS: &str = "python3 check.py mariadb postgres nginx mutual_tls";

fn served(caller: Caller, more: &str) {
    for needed in ["mariadbd", "mariadb-install-db", "mariadb", "psql", "nginx"] {
        program(needed);
    }
    let lab = Lab::of(caller, &format!("{SERVERS}{more}"));
    let wait = format!("{CHECKS} && touch checked && while test ! -e seen; do sleep 0.05; done");
    let mut mesh = lab.spawn(&["up", "mesh.yaml", "--exec", &wait]);
    ripstop_testkit::wait::until_true(PATIENCE, "the checks", || {
        mesh.exited().is_some() || lab.path("checked").exists()
    });
    assert!(mesh.exited().is_none(), "{}", mesh.report());
    let user = |words: &str| uid(below(mesh.pid(), words).expect(words));
    let users = ["mariadbd --no-defaults", "nginx: worker", "postgres: "].map(user);
    // daemon, daemon and nobody on every Debian; an ordinary user's servers are the user's.
    let expected = match caller {
        Caller::Root => [1, 1, 65534],
        Caller::Ordinary => [users[2]; 3],
    };
    assert_eq!(users, expected);
    lab.write("seen", "");
    assert!(mesh.wait(PATIENCE).success(), "{}", mesh.report());
    eprintln!("{}", mesh.stdout());
}

/// The effective user id of a process.
fn uid(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("Uid:"));
    line.and_then(|line| line.split_whitespace().nth(2)?.parse().ok())
        .unwrap()
}

#[test]
fn in_permissive() {
    served(callers()[0], "");
}

#[test]
fn in_strict() {
    // The last one is the ordinary user, who may be the only one.
    served(callers()[callers().len() - 1], STRICT);
}
