//! `ripstop proxy` under floods: what they cost it in memory and CPU, and what others feel; and real clients that do much
//! and are never cut. Which flood is ended by what is shown in the tests of `ripstop-proxy`.

#[path = "floods/bodies.rs"]
mod bodies;
#[path = "floods/busy.rs"]
mod busy;
#[path = "floods/cost.rs"]
mod cost;
#[path = "floods/crowd.rs"]
mod crowd;
#[path = "floods/handshakes.rs"]
mod handshakes;

use std::fs;
use std::net::SocketAddr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use ripstop_testkit::process::Guard;
use ripstop_testkit::upstream::{Upstream, response};
use ripstop_testkit::{port, standalone};

/// A proxy with one worker before an upstream that answers `/big` with a mebibyte, all else with a word.
struct Lab {
    proxy: Guard,
    address: SocketAddr,
    admin: SocketAddr,
    _up: Upstream,
    _folder: tempfile::TempDir,
    _turn: Turn,
}

/// Who measures time has the machine for itself, as far as these tests go.
static MACHINE: RwLock<()> = RwLock::new(());

#[derive(Default)]
struct Turn {
    _shared: Option<RwLockReadGuard<'static, ()>>,
    _alone: Option<RwLockWriteGuard<'static, ()>>,
}

impl Turn {
    fn shared() -> Turn {
        Turn {
            _shared: Some(MACHINE.read().unwrap_or_else(PoisonError::into_inner)),
            ..Turn::default()
        }
    }

    fn alone() -> Turn {
        Turn {
            _alone: Some(MACHINE.write().unwrap_or_else(PoisonError::into_inner)),
            ..Turn::default()
        }
    }
}

impl Lab {
    /// `more`: further fields of the connection manager, one to a line.
    fn start(more: &str) -> Lab {
        Lab::limited(&[], &[], more)
    }

    fn alone() -> Lab {
        Lab::written(Turn::alone(), &[], &[], |bootstrap, _| bootstrap)
    }

    /// `before`: the program, with its arguments, that starts ripstop; `options`: of `ripstop proxy`.
    fn limited(before: &[&str], options: &[&str], more: &str) -> Lab {
        Lab::written(Turn::shared(), before, options, |bootstrap, _| {
            bootstrap.replace("codec_type: AUTO", more)
        })
    }

    /// With the bootstrap that `write` makes of the usual one and the upstream's port.
    fn written(
        turn: Turn,
        before: &[&str],
        options: &[&str],
        write: impl FnOnce(String, u16) -> String,
    ) -> Lab {
        let up = Upstream::http(|request| match request.target().as_str() {
            "/big" => response(200, &"x".repeat(1 << 20)),
            _ => response(200, "fine"),
        });
        let (held, admin) = (port::reserve(), port::reserve());
        let (address, admin) = (held.addr(), admin.addr());
        let folder = tempfile::tempdir().expect("a folder for the bootstrap");
        let file = folder.path().join("bootstrap.yaml");
        let usual = bootstrap(address.port(), admin.port(), up.port());
        fs::write(&file, write(usual, up.port())).expect("room");
        let proxy = standalone::start(before, env!("CARGO_BIN_EXE_ripstop"), options, &file);
        Lab {
            proxy,
            address,
            admin,
            _up: up,
            _folder: folder,
            _turn: turn,
        }
    }

    /// Resident memory, in KiB.
    fn memory(&self) -> i64 {
        self.status("VmRSS:")
    }

    /// The most there was of it since it was last forgotten.
    fn peak(&self) -> i64 {
        self.status("VmHWM:")
    }

    fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.proxy.pid()), "5").expect("a running proxy");
    }

    fn status(&self, name: &str) -> i64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.proxy.pid()));
        let status = status.expect("a running proxy");
        let line = status.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        kib.and_then(|kib| kib.parse().ok()).expect("a figure")
    }

    /// CPU time so far, user and system.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.proxy.pid()));
        let stat = stat.expect("a running proxy");
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let mut ticks = fields.split_whitespace().skip(11);
        let mut next = || -> u64 { ticks.next().and_then(|t| t.parse().ok()).expect("a figure") };
        // A hundred ticks a second, on every Linux.
        Duration::from_millis((next() + next()) * 10)
    }
}

fn bootstrap(listener: u16, admin: u16, upstream: u16) -> String {
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: {listener}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: l
          codec_type: AUTO
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: a}}}}]
  clusters:
  - name: a
    connect_timeout: 10s
    circuit_breakers: {{thresholds: [{{max_connections: 600, max_pending_requests: 10000, max_requests: 10000}}]}}
    load_assignment:
      cluster_name: a
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]}}]
"#
    )
}
