//! A workload without a mesh: `confine run FILE` runs a command captured in namespaces of its own, beside a sidecar that
//! only tells what it was asked. It shows how the parts are put together, and the crate's tests drive it.
//!
//! FILE is JSON: `{"spec": workload::Spec, "sidecar": Script}`. The sidecar answers each captured connection with a line
//! `outbound DESTINATION from SOURCE`, names from a fixed table, datagrams through the relay to one fixed address, and
//! dials the app for whoever writes `ADDRESS\n` to its Unix socket.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use ripstop_host::sidecar::{AppSupply, FIRST_FREE, Inherited};
use ripstop_host::supervise::{
    Error, Exit, Failure, Order, Patience, Program, Programs, Report, Running, document,
    inherited_document, start,
};
use ripstop_host::workload::Spec;
use ripstop_host::{dns, host_ports, keeper, udp};
use ripstop_model::seam::{AppSockets, Family, HostRecord, Lookup, Names};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Deserialize)]
struct File {
    spec: Spec,
    sidecar: Script,
}

#[derive(Clone, Serialize, Deserialize)]
struct Script {
    /// Names and their addresses; a name without addresses is one the control plane does not answer for.
    names: BTreeMap<String, Vec<IpAddr>>,
    nameservers: Vec<SocketAddr>,
    /// Where every relayed datagram goes.
    datagrams: Option<SocketAddr>,
    /// Where to listen for dials to the app.
    inbound: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // The keeper must stay single-threaded, so it comes before any runtime.
    if words == ["keeper"] {
        return keeper::main();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    match words.as_slice() {
        ["run", file] => runtime.block_on(run(Path::new(file))),
        ["sidecar"] => match runtime.block_on(sidecar()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("sidecar: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: confine run FILE");
            ExitCode::FAILURE
        }
    }
}

/// Our own executable with another subcommand.
fn ourselves(subcommand: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(subcommand);
    command
}

async fn run(file: &Path) -> ExitCode {
    let text = std::fs::read(file).expect("the file");
    let File { spec, sidecar } = serde_json::from_slice(&text).expect("its JSON");
    let programs = Programs {
        keeper: Box::new(|| ourselves("keeper")),
        sidecar: Box::new(move || {
            Ok(Program {
                command: ourselves("sidecar"),
                descriptors: vec![(document("script", &sidecar)?, FIRST_FREE)],
            })
        }),
    };
    // Before the app can run: a signal that comes while it starts is passed on when it has.
    let terminate = signal(SignalKind::terminate()).expect("a signal handler");
    let hang_up = signal(SignalKind::hangup()).expect("a signal handler");
    match start(spec, programs, Patience::default()).await {
        Ok(running) => {
            let exit = attend(running, terminate, hang_up).await;
            eprintln!("ended {exit:?}");
            ExitCode::from(exit.code() as u8)
        }
        Err(error) => {
            eprintln!("error: {error}");
            match error {
                Error::Failure(Failure::Command { code, .. }) => ExitCode::from(code as u8),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Passes SIGHUP, ends on SIGTERM, tells of the processes on stderr.
async fn attend(mut running: Running, mut terminate: Signal, mut hang_up: Signal) -> Exit {
    let mut sidecar = running.sidecar();
    let (outer, init) = running.keeper_pids();
    eprintln!("keeper {outer} {init}");
    if let Some((mut stdout, mut stderr)) = running.output() {
        tokio::spawn(async move {
            let mut out = tokio::io::stdout();
            out.write_all(b"piped: ").await.expect("stdout");
            tokio::io::copy(&mut stdout, &mut out).await
        });
        tokio::spawn(async move { tokio::io::copy(&mut stderr, &mut tokio::io::stderr()).await });
    }
    loop {
        let state = *sidecar.borrow_and_update();
        if let (Some(pid), true) = (state.pid, state.ready) {
            eprintln!("sidecar {pid} {}", state.restarts);
        }
        tokio::select! {
            exit = running.wait() => return exit,
            _ = terminate.recv() => return running.stop(sigterm(), Duration::from_secs(5)).await,
            _ = hang_up.recv() => running.signal(SignalKind::hangup().as_raw_value()).await,
            _ = sidecar.changed() => {}
        }
    }
}

fn sigterm() -> i32 {
    SignalKind::terminate().as_raw_value()
}

async fn sidecar() -> io::Result<()> {
    let script: Script = inherited_document(FIRST_FREE, "the script")?;
    let inherited = Inherited::receive().await?;
    let background = inherited.background;
    let names = Arc::new(Table(script.names));
    let mut zone = background.zone;
    zone.mesh = vec!["240.240.0.0/16".parse().expect("a network")];
    dns::serve_with(background.dns, zone, names, script.nameservers)?;
    let limits = udp::Limits {
        flows: 4,
        ..udp::Limits::default()
    };
    udp::serve(
        background.interceptors,
        background.replies,
        limits,
        move |_| script.datagrams,
    )?;
    host_ports::serve(background.host_listeners, background.host_ports)?;
    for listener in inherited.outbound {
        tokio::spawn(outbound(TcpListener::from_std(listener)?));
    }
    let _ = std::fs::remove_file(&script.inbound);
    tokio::spawn(inbound(UnixListener::bind(&script.inbound)?, inherited.app));
    inherited.supervisor.report(Report::Ready)?;
    while let Some(Order::Drain | Order::End) = inherited.supervisor.order().await? {
        inherited.supervisor.report(Report::Drained)?;
    }
    Ok(())
}

/// Tells each connection where it was going.
async fn outbound(listener: TcpListener) -> io::Result<()> {
    loop {
        let (mut stream, source) = listener.accept().await?;
        let socket = SockRef::from(&stream);
        let destination = match source {
            SocketAddr::V4(_) => socket.original_dst_v4()?,
            SocketAddr::V6(_) => socket.original_dst_v6()?,
        };
        let destination = destination.as_socket().expect("an address");
        let line = format!("outbound {destination} from {}\n", source.ip());
        stream.write_all(line.as_bytes()).await?;
    }
}

async fn inbound(listener: UnixListener, app: AppSupply) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(dial(stream, app.clone()));
    }
}

async fn dial(mut stream: UnixStream, app: AppSupply) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&mut stream).read_line(&mut line).await?;
    let address: SocketAddr = line.trim().parse().map_err(io::Error::other)?;
    match connect(&app, address).await {
        Ok(mut upstream) => copy_bidirectional(&mut stream, &mut upstream)
            .await
            .map(|_| ()),
        Err(error) => {
            stream
                .write_all(format!("failed: {error}\n").as_bytes())
                .await
        }
    }
}

async fn connect(app: &AppSupply, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = app.stream(Family::of(address.ip())).await?;
    TcpSocket::from_std_stream(StdStream::from(socket))
        .connect(address)
        .await
}

struct Table(BTreeMap<String, Vec<IpAddr>>);

impl Names for Table {
    async fn lookup(&self, name: &str) -> Lookup {
        match self.0.get(name) {
            None => Lookup::Unknown,
            Some(addresses) if addresses.is_empty() => Lookup::Unavailable,
            Some(addresses) => Lookup::Known(Arc::new(HostRecord {
                fqdn: format!("{}.default.svc.cluster.local", name.replace('/', "-")).into(),
                vips: addresses.clone(),
                ..HostRecord::default()
            })),
        }
    }
}
