//! The table of subcommands: each is a file in `command/` with its `Options` and `Options::run`, and a row here.

mod agent;
mod analyze;
mod apply;
mod completion;
mod control;
mod delete;
mod down;
mod get;
mod keeper;
mod proxy;
mod ps;
mod run;
mod status;
mod token;
mod top;
mod up;
mod wait;

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use ripstop_model::intent::mesh::Publish;

pub(crate) use analyze::read as configuration;
pub(crate) use top::Live;

/// Rows are `module => Variant`; the comment above a row is its line in `--help`.
macro_rules! commands {
    ($( $(#[$attribute:meta])* $module:ident => $Variant:ident, )*) => {
        #[derive(clap::Subcommand)]
        pub(crate) enum Command {
            $( $(#[$attribute])* $Variant($module::Options), )*
        }

        impl Command {
            /// Runs it. An error is for the user to read: what failed and what to do next.
            pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
                match self {
                    $( Command::$Variant(options) => options.run(), )*
                }
            }
        }
    };
}

commands! {
    /// Run a whole mesh on this machine
    up => Up,
    /// Stop a mesh that `up` runs
    down => Down,
    /// Join one process to a running mesh
    run => Run,
    /// List services, workloads, addresses and published ports
    ps => Ps,
    /// Show the traffic between services, live
    top => Top,
    /// Wait until services are ready
    wait => Wait,
    /// Show what proxies and resources have accepted
    status => Status,
    /// Print resources in force
    get => Get,
    /// Put resources in force
    apply => Apply,
    /// Take back an applied resource
    delete => Delete,
    /// Check files of Istio, Gateway API and mesh configuration
    analyze => Analyze,
    /// Make tokens with which workloads of other hosts join
    token => Token,
    /// Run the control plane
    control => Control,
    /// Run the data plane, from an Envoy bootstrap
    proxy => Proxy,
    /// Make a stock Envoy a workload's sidecar
    agent => Agent,
    /// Print a script that completes ripstop's commands in a shell
    completion => Completion,
    #[command(hide = true)]
    keeper => Keeper,
}

/// `500ms`, `30s`, `15m`, `24h`, `30d`.
fn duration(text: &str) -> anyhow::Result<Duration> {
    let at = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().filter(|_| milliseconds > 0);
    let time = number.and_then(|number| number.checked_mul(milliseconds));
    time.map(Duration::from_millis)
        .with_context(|| format!("`{text}` is not a time: write 500ms, 30s, 15m, 24h or 30d"))
}

/// `[ADDR:]PORT`; without an address on loopback.
fn listening(text: &str) -> anyhow::Result<SocketAddr> {
    let at = Publish::parse(text).with_context(|| {
        format!("`{text}` is not where to listen: write PORT, ADDR:PORT or [ADDR]:PORT, the address in numbers")
    })?;
    Ok(SocketAddr::new(at.address, at.port))
}

/// `HOST:PORT` of a control plane, as it is typed.
fn remote(text: &str) -> anyhow::Result<String> {
    let parts = text.rsplit_once(':').filter(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (bracketed || !host.contains(':')) && port.parse::<NonZeroU16>().is_ok()
    });
    parts.with_context(|| {
        format!("`{text}` is not where a control plane listens: write HOST:PORT, ADDR:PORT or [ADDR]:PORT, with the port that it gave for xDS over TLS, such as 15012")
    })?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_table_is_consistent() {
        crate::Arguments::command().debug_assert();
    }

    #[test]
    fn addresses_are_loopback_unless_said() {
        let read = |text| listening(text).unwrap().to_string();
        assert_eq!(read("15080"), "127.0.0.1:15080");
        assert_eq!(read("0.0.0.0:0"), "0.0.0.0:0");
        assert_eq!(read("[::1]:80"), "[::1]:80");
        for bad in ["", "localhost:80", "127.0.0.1", "65536", "::1:x"] {
            let error = listening(bad).unwrap_err().to_string();
            assert!(error.contains("write PORT, ADDR:PORT"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_control_plane_is_a_host_and_a_port() {
        for good in ["10.9.0.1:15012", "control.example:1", "[2001:db8::1]:15012"] {
            assert_eq!(remote(good).unwrap(), good);
        }
        for bad in [
            "10.9.0.1",
            "control",
            ":15012",
            "a:0",
            "a:x",
            "2001:db8::1",
            "2001:db8::1:15012",
        ] {
            let error = remote(bad).unwrap_err().to_string();
            assert!(
                error.contains("HOST:PORT") && error.contains(bad),
                "{error}"
            );
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        for bad in ["", "5", "s", "-1s", "1w", "99999999999999999999d"] {
            assert!(
                duration(bad)
                    .unwrap_err()
                    .to_string()
                    .contains("is not a time"),
                "{bad}"
            );
        }
    }
}
