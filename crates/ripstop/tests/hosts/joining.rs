//! From a token file to two hosts that talk, and everything that must not happen on the way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ripstop_identity::ca::Lifetimes;
use ripstop_identity::tls::{Server, ServerOptions, Versions};
use ripstop_identity::token::{Grant, Registry, TokenFile};
use ripstop_identity::{Authority, Key, Slot};
use ripstop_model::spiffe::Spiffe;
use ripstop_testkit::capture::contains;
use ripstop_testkit::wait;

use crate::lab::{Lab, PATIENCE, STRICT, callers, relay, text, with_rights};

/// Key shares of the hybrid group, as they stand in a ClientHello and a ServerHello: 0x11ec and their lengths.
const HYBRID: [&[u8]; 2] = [&[0x11, 0xec, 0x04, 0xc0], &[0x11, 0xec, 0x04, 0x60]];

#[test]
fn services_of_two_hosts_call_each_other_by_name() {
    with_rights(
        "joining::services_of_two_hosts_call_each_other_by_name",
        || {
            for caller in callers() {
                let begun = std::time::Instant::now();
                let lab = Lab::new(caller, &["a", "b", "c"]);
                let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
                a.write("config/mesh.yaml", STRICT);
                let mut control = a.control(&[]);
                a.invite(b, "users", &[]);
                a.invite(c, "orders", &[]);
                a.invite(c, "client", &[]);
                let crossing = lab.capture("b");
                let mut users = relay(b, a, "users", "80:8080");
                let mut orders = relay(c, a, "orders", "80:8080");
                a.ready("users-0.default");
                a.ready("orders-0.default");
                let ask = "import urllib.request as r; \
                       print(r.urlopen('http://orders/via/users/via/orders/a-secret-path').read().decode())";
                let mut client = c.join(a, "client", &[], &["python3", "-c", ask]);
                assert!(client.wait(PATIENCE).success(), "{}", client.report());
                assert_eq!(client.stdout().trim(), "orders>users>orders");
                eprintln!(
                    "{caller:?}: from nothing to an answer in {:?}",
                    begun.elapsed()
                );
                let crossed = crossing.stop();
                assert!(contains(
                    &crossed,
                    "outbound_.80_._.users.default.svc.cluster.local"
                ));
                for secret in ["a-secret-path", "users>orders", "rst1."] {
                    assert!(!contains(&crossed, secret), "{secret} crossed in the clear");
                }
                for share in HYBRID {
                    assert!(crossed.windows(4).any(|window| window == share));
                }
                assert!(
                    a.ps()
                        .lines()
                        .any(|line| line.contains("users-0.default")
                            && line.contains("b (10.9.0.2)"))
                );
                private(&c.path("orders.token"));
                for kept in files(&c.path("home")) {
                    private(&kept);
                }
                // What is on the disks of those who joined certifies nobody.
                for file in files(&b.path("")).into_iter().chain(files(&c.path(""))) {
                    let bytes = std::fs::read(&file).unwrap();
                    assert!(!contains(&bytes, "PRIVATE KEY"), "{}", file.display());
                }
                private(&a.path("state/ca.key"));
                assert_eq!(users.terminate(PATIENCE).code(), Some(128 + libc::SIGTERM));
                assert_eq!(orders.terminate(PATIENCE).code(), Some(128 + libc::SIGTERM));
                assert!(control.terminate(PATIENCE).success());
            }
        },
    );
}

fn private(file: &Path) {
    let mode = std::fs::metadata(file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{}", file.display());
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.path().is_dir() {
            true => files(&entry.path()),
            false => vec![entry.path()],
        })
        .collect()
}

#[test]
fn two_hosts_in_one_up() {
    with_rights("joining::two_hosts_in_one_up", || {
        for caller in callers() {
            let lab = Lab::new(caller, &["a", "b"]);
            let (a, b) = (lab.host("a"), lab.host("b"));
            a.write("relay.py", crate::lab::RELAY);
            a.write(
                "mesh.yaml",
                "
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: whole}
spec:
  services:
  - name: users
    ports: [{name: http, port: 80, targetPort: 8080}]
    workloads: [{command: [python3, relay.py, '8080', users]}]
",
            );
            let joining = a.joined_at();
            let mut mesh = a.spawn(&["up", "mesh.yaml", "--state", "state", "--xds-tls", &joining]);
            mesh.line_with("stop      ripstop down", PATIENCE);
            a.invite(b, "orders", &[]);
            let mut orders = relay(b, a, "orders", "80:8080");
            a.ready("orders-0.default");
            // From the host of the control plane to the one that joined, and back.
            let ask = "import urllib.request as r; \
                       print(r.urlopen('http://orders/via/users/x').read().decode())";
            let words = [
                "run",
                "--state",
                "state",
                "--service-account",
                "client",
                "--",
            ];
            let answer = a.run(&[&words[..], &["python3", "-c", ask]].concat());
            assert_eq!(text(&answer.stdout).trim(), "orders>users");
            assert_eq!(orders.terminate(PATIENCE).code(), Some(128 + libc::SIGTERM));
            assert!(mesh.terminate(PATIENCE).success());
        }
    });
}

#[test]
fn a_token_is_good_for_what_it_says() {
    with_rights("joining::a_token_is_good_for_what_it_says", || {
        let lab = Lab::new(callers()[0], &["a", "b"]);
        let (a, b) = (lab.host("a"), lab.host("b"));
        a.write("config/mesh.yaml", STRICT);
        let _control = a.control(&[]);
        a.invite(b, "far", &[]);
        let mut first = b.join(a, "far", &["--port", "80:8080"], &["sleep", "600"]);
        wait::until_true(PATIENCE, "the first to join", || {
            a.ps().contains("far-0.default")
        });
        let refused = |token: &str, service: &str, more: &[&str], said: &[&str]| {
            let control = a.joined_at();
            let words = [
                "run",
                "--control",
                &control,
                "--token",
                token,
                "--service",
                service,
            ];
            let output = b.run(&[&words[..], more, &["--", "true"]].concat());
            let error = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{error}");
            for said in said {
                assert!(error.contains(said), "{said:?} is not in {error}");
            }
        };
        refused(
            "far.token",
            "far",
            &[],
            &["used up", "ripstop token create"],
        );
        a.invite(b, "near", &["--uses", "3"]);
        refused(
            "near.token",
            "far",
            &[],
            &["the token allows", "service near"],
        );
        a.invite(b, "late", &["--ttl", "1s"]);
        std::thread::sleep(Duration::from_millis(1100));
        refused(
            "late.token",
            "late",
            &[],
            &["has expired", "ripstop token create"],
        );
        // The control plane judges too, whatever the file says.
        let later = std::fs::read_to_string(b.path("late.token")).unwrap();
        let token: TokenFile = TokenFile::parse(&later).unwrap();
        let later = later.replace(&token.expires.to_string(), "99999999999");
        b.write("forged.token", &later);
        refused("forged.token", "late", &[], &["token"]);
        // A port in use is told by those who want it, before anything is started.
        let before = b.listening();
        let mut near = relay(b, a, "near", "80:8080");
        a.ready("near-0.default");
        let ports = &b.listening() - &before;
        near.terminate(PATIENCE);
        let blocking: Vec<_> = ports.iter().map(|port| {
            let text = format!("import socket, time; s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('10.9.0.2', {port})); s.listen(); print('bound', flush=True); time.sleep(600)");
            let mut blocking = b.python(&text);
            blocking.line_with("bound", PATIENCE);
            blocking
        }).collect();
        refused(
            "near.token",
            "near",
            &["--port", "80:8080"],
            &["cannot listen on 10.9.0.2", "--advertise ADDR"],
        );
        drop(blocking);
        let elsewhere = ["--port", "80:8080", "--advertise", "10.9.0.99"];
        refused(
            "near.token",
            "near",
            &elsewhere,
            &["an address of this host"],
        );
        first.terminate(PATIENCE);
    });
}

/// What somebody who took the control plane's address learns.
struct Impostor {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Impostor {
    /// Shows a certificate for the control plane's identity, signed by a root of its own, and, if given, the genuine root too:
    /// that is public.
    fn new(authority: &Authority, genuine: Option<&str>) -> Impostor {
        let identity: Spiffe = CONTROL.parse().unwrap();
        let key = Key::generate().unwrap();
        let csr = key.csr(&identity).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let mut chain = authority
            .sign(&csr, &identity, day, SystemTime::now())
            .unwrap();
        chain.extend(genuine.map(str::to_owned));
        let server = Server::new(ServerOptions {
            versions: Versions::Tls12And13,
            ..ServerOptions::plain(Slot::with(key.certify(&chain).unwrap()))
        })
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let record = heard.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                listen(stream.unwrap(), &server, &record);
            }
        });
        Impostor { address, heard }
    }
}

/// All bytes as they come, and what is in them once deciphered.
fn listen(stream: TcpStream, server: &Server, record: &Mutex<Vec<u8>>) {
    struct Tap<'a>(TcpStream, &'a Mutex<Vec<u8>>);
    impl Read for Tap<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let length = self.0.read(buffer)?;
            self.1.lock().unwrap().extend(&buffer[..length]);
            Ok(length)
        }
    }
    impl Write for Tap<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.0.flush()
        }
    }
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let connection = rustls::ServerConnection::new(server.config().clone()).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, Tap(stream, record));
    let mut clear = Vec::new();
    // Refused handshakes and closed connections are what is hoped for.
    let _ended = stream.read_to_end(&mut clear);
    record.lock().unwrap().extend(&clear);
}

const CONTROL: &str = "spiffe://cluster.local/ns/istio-system/sa/ripstop-control";

#[test]
fn an_impostor_learns_no_secret() {
    let now = SystemTime::now();
    let authority = || Authority::create("cluster.local", Lifetimes::default(), now).unwrap();
    let (genuine, wrong) = (authority(), authority());
    let allows = Grant {
        namespace: "default".to_owned(),
        service_account: "far".to_owned(),
        service: Some("far".to_owned()),
        workload: None,
    };
    let hour = Duration::from_secs(3600);
    let secret = Registry::default()
        .issue(allows.clone(), hour, 1, now)
        .unwrap();
    let expires = (now + hour).duration_since(std::time::UNIX_EPOCH).unwrap();
    let token = TokenFile {
        api_version: TokenFile::API_VERSION.to_owned(),
        kind: TokenFile::KIND.to_owned(),
        root_sha256: genuine.fingerprint(),
        trust_domain: "cluster.local".to_owned(),
        control_identity: CONTROL.to_owned(),
        secret: secret.clone(),
        expires: expires.as_secs(),
        allows,
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("far.token");
    std::fs::write(&file, token.to_json()).unwrap();
    for (shown, said) in [
        (None, "does not present the root"),
        (
            Some(genuine.root_pem()),
            "not the one the token was made by",
        ),
    ] {
        let impostor = Impostor::new(&wrong, shown);
        let output = Command::new(env!("CARGO_BIN_EXE_ripstop"))
            .args(["run", "--control", &impostor.address.to_string()])
            .args([
                "--token",
                file.to_str().unwrap(),
                "--service",
                "far",
                "--",
                "true",
            ])
            .env("RIPSTOP_STATE", folder.path().join("state"))
            .output()
            .unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(said), "{error}");
        let heard = impostor.heard.lock().unwrap();
        assert!(heard.len() > 100, "it was asked for its certificate");
        assert!(!contains(&heard, "rst1.") && !contains(&heard, &secret[5..21]));
        assert!(!contains(&heard, "Bearer") && !contains(&heard, "/v1/workloads"));
    }
}
