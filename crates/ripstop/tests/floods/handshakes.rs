//! TLS handshakes that take their time, and one that is cut into the smallest pieces.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ripstop_testkit::{program, wait};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::{Lab, Turn};

/// What the connections get to shake hands; ten seconds where nobody says so.
const LIMIT: Duration = Duration::from_secs(3);
const SLOW: usize = 60;

/// A listener that terminates TLS; `inspector`: which looks at the hello first.
fn lab(folder: &std::path::Path, inspector: bool) -> Lab {
    let made = rcgen::generate_simple_self_signed(["a".to_owned()]).expect("a certificate");
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    fs::write(&chain, made.cert.pem()).expect("room");
    fs::write(&key, made.signing_key.serialize_pem()).expect("room");
    let limit = LIMIT.as_secs();
    let socket = format!(
        r#"- transport_socket_connect_timeout: {limit}s
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}]
      filters:"#,
        chain.display(),
        key.display()
    );
    let filters = format!(
        r#"listener_filters_timeout: {limit}s
    listener_filters: [{{name: tls, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}}}]
    filter_chains:
"#
    );
    Lab::written(Turn::shared(), &[], &[], |bootstrap, _| {
        let secured = bootstrap.replace("- filters:", &socket);
        match inspector {
            true => secured.replace("filter_chains:\n", &filters),
            false => secured,
        }
    })
}

/// A real hello, each byte in a record of its own.
fn hello() -> Vec<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = "a".to_owned().try_into().expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut record = Vec::new();
    connection.write_tls(&mut record).expect("memory");
    let bytes = record.iter().skip(5);
    bytes.map(|byte| vec![22, 3, 1, 0, 1, *byte]).collect()
}

#[test]
fn hellos_in_pieces_are_read_and_cost_little() {
    for inspector in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let lab = lab(folder.path(), inspector);
        let hello = hello();
        let begun = lab.cpu();
        let mut whole = TcpStream::connect(lab.address).expect("the proxy");
        whole.set_nodelay(true).expect("connected");
        whole
            .set_read_timeout(Some(wait::GENEROUS))
            .expect("above zero");
        for record in &hello {
            whole.write_all(record).expect("taken");
        }
        let mut answer = [0];
        whole.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [22], "the server's own hello");
        // Those that take longer than they may, one record now and then; and those that say nothing.
        let mut slow: Vec<TcpStream> = (0..SLOW)
            .map(|_| TcpStream::connect(lab.address).expect("the proxy"))
            .collect();
        let started = Instant::now();
        for record in &hello {
            for stream in slow.iter_mut().skip(SLOW / 3) {
                let _refused_once_closed = stream.write_all(record);
            }
            if started.elapsed() > LIMIT + Duration::from_secs(1) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for stream in &mut slow {
            stream
                .set_read_timeout(Some(wait::GENEROUS))
                .expect("above zero");
            let mut rest = Vec::new();
            match stream.read_to_end(&mut rest) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
            }
        }
        let took = started.elapsed();
        assert!(took < LIMIT + Duration::from_secs(7), "{took:?}");
        let spent = lab.cpu() - begun;
        println!("inspector {inspector}: {took:?}, {spent:?} of CPU");
        assert!(spent < Duration::from_secs(3), "{spent:?}");
    }
}

/// What comes with the first flight of a resumed handshake could be a replay: it is never asked for.
#[test]
fn early_data_is_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let lab = lab(folder.path(), false);
    let mut client = Command::new(program("openssl"));
    client
        .args(["s_client", "-tls1_3", "-connect", &lab.address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut client = client.spawn().expect("openssl");
    let mut stdin = client.stdin.take().expect("piped");
    stdin
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .expect("taken");
    let said = client.wait_with_output().expect("its end");
    drop(stdin);
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("HTTP/1.1 200"), "{said}");
    assert!(said.contains("Max Early Data: 0"), "{said}");
    assert!(!said.contains("Early data was accepted"), "{said}");
}
