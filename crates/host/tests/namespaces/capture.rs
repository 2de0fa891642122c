//! TCP out and in, host ports, datagrams.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};

use crate::bench::{Bench, Caller, NOBODY, V4, V6, callers, kill};

const READ: &str = r#"
import socket
def read(host, port):
    try:
        with socket.create_connection((host, port), timeout=30) as s:
            return s.recv(200).decode().strip()
    except OSError as e:
        return e.__class__.__name__
"#;

/// A program that answers `NAME` on each of the given addresses, all of port 8080 on.
fn server(binds: &[(&str, &str)]) -> String {
    let mut program = String::from("import socket, threading\ndef serve(host, port, name):\n");
    program += "    family = socket.AF_INET6 if ':' in host else socket.AF_INET\n";
    program +=
        "    s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n";
    program += "    s.bind((host, port)); s.listen(50)\n    def loop():\n        while True:\n";
    program += "            c, _ = s.accept(); c.sendall(name.encode()); c.close()\n";
    program += "    threading.Thread(target=loop, daemon=True).start()\n";
    for (index, (host, name)) in binds.iter().enumerate() {
        program += &format!("serve('{host}', {}, '{name}')\n", 8080 + index);
    }
    program
}

#[test]
fn outbound_tcp_keeps_its_destination() {
    for caller in callers() {
        let program = format!(
            "{READ}
for host, port in [('192.0.2.1', 80), ('240.240.0.9', 8080), ('2001:db8::1', 443), ('8.8.8.8', 5432)]:
    print(read(host, port))"
        );
        assert_eq!(
            Bench::python(caller, &program).lines(),
            [
                format!("outbound 192.0.2.1:80 from {V4}"),
                format!("outbound 240.240.0.9:8080 from {V4}"),
                format!("outbound [2001:db8::1]:443 from {V6}"),
                format!("outbound 8.8.8.8:5432 from {V4}"),
            ],
            "{caller:?}"
        );
    }
}

#[test]
fn the_workload_reaches_itself_without_the_sidecar_and_its_vip_with_it() {
    for caller in callers() {
        let program = server(&[("0.0.0.0", "four"), ("::", "six")])
            + READ
            + &format!(
                "
for host, port in [('127.0.0.1', 8080), ('{V4}', 8080), ('::1', 8081), ('{V6}', 8081), ('240.240.0.7', 8080)]:
    print(read(host, port))
print(read('127.0.0.1', 9999))"
            );
        assert_eq!(
            Bench::python(caller, &program).lines(),
            [
                "four",
                "four",
                "six",
                "six",
                "outbound 240.240.0.7:8080 from 10.88.0.5",
                "ConnectionRefusedError"
            ],
            "{caller:?}"
        );
    }
}

#[test]
fn inbound_reaches_apps_however_they_are_bound() {
    for caller in callers() {
        let binds = [
            ("127.0.0.1", "loop4"),
            ("::1", "loop6"),
            ("0.0.0.0", "any4"),
            (V4, "own4"),
            (V6, "own6"),
        ];
        let program = server(&binds) + "threading.Event().wait()";
        let bench = Bench::python(caller, &program);
        // A second replica on the same ports, at the same time.
        let other = Bench::python(caller, &program.replace("loop4", "other"));
        let (running, beside) = (bench.start(), other.start());
        assert_eq!(running.dial("127.0.0.1:8080"), "loop4");
        assert_eq!(beside.dial("127.0.0.1:8080"), "other");
        assert_eq!(running.dial("[::1]:8081"), "loop6");
        assert_eq!(running.dial("127.0.0.1:8082"), "any4");
        assert_eq!(running.dial(&format!("{V4}:8083")), "own4");
        assert_eq!(running.dial(&format!("[{V6}]:8084")), "own6");
        // More than any queue of prepared sockets holds.
        for _ in 0..100 {
            assert_eq!(running.dial("127.0.0.1:8080"), "loop4");
        }
    }
}

#[test]
fn declared_host_ports_are_the_hosts_and_others_the_apps() {
    for caller in callers() {
        let host = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = host.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in host.incoming() {
                let mut stream = stream.unwrap();
                let mut word = [0; 5];
                stream.read_exact(&mut word).unwrap();
                stream
                    .write_all(&[b"host heard ", &word[..]].concat())
                    .unwrap();
            }
        });
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let program = format!(
            "
import socket
def ask(host, port):
    try:
        with socket.create_connection((host, port), timeout=30) as s:
            s.sendall(b'hello')
            return s.recv(200).decode()
    except OSError as e:
        return e.__class__.__name__
for host in ['host.ripstop.internal', '127.0.0.1', '::1']:
    print(ask(host, {port}))
print(ask('127.0.0.1', {closed}) in ('ConnectionResetError', ''))
print(ask('127.0.0.1', {undeclared}))",
            undeclared = if closed == 9999 { 9998 } else { 9999 }
        );
        let mut bench = Bench::python(caller, &program);
        bench.spec.host_ports = vec![port, closed];
        assert_eq!(
            bench.lines(),
            [
                "host heard hello",
                "host heard hello",
                "host heard hello",
                "True",
                "ConnectionRefusedError"
            ],
            "{caller:?}"
        );
    }
}

#[test]
fn datagrams_are_relayed_both_ways_and_groups_are_not() {
    for caller in callers() {
        let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = echo.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 70_000];
            while let Ok((length, from)) = echo.recv_from(&mut buffer) {
                echo.send_to(&buffer[..length], from).unwrap();
            }
        });
        let program = "
import socket
def ask(host, connect):
    with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(30)
        answers = []
        for word in [b'one', b'two', b'x' * 20000]:
            if connect:
                s.connect((host, 9999)); s.send(word)
            else:
                s.sendto(word, (host, 9999))
            data, peer = s.recvfrom(70000)
            assert data == word and peer[:2] == (host, 9999), (data, peer)
            answers.append(len(data))
        return answers
print(ask('192.0.2.7', False), ask('2001:db8::7', True))
# A flow each, and an app that sends again to where it sent before.
print(ask('192.0.2.7', True), ask('192.0.2.8', False))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.settimeout(0.5)
    try:
        s.sendto(b'one', ('224.0.0.251', 5353)); s.recv(100); print('answered')
    except OSError as e:
        print('silence')
# Its own datagrams stay its own.
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(('0.0.0.0', 7000))
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); b.sendto(b'own', ('10.88.0.5', 7000))
print(a.recv(10).decode())";
        let mut bench = Bench::python(caller, program);
        bench.datagrams = Some(address);
        assert_eq!(
            bench.lines(),
            [
                "[3, 3, 20000] [3, 3, 20000]",
                "[3, 3, 20000] [3, 3, 20000]",
                "silence",
                "own"
            ],
            "{caller:?}"
        );
    }
}

#[test]
fn more_flows_than_allowed_are_dropped() {
    let echo = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            echo.send_to(&buffer[..length], from).unwrap();
        }
    });
    // The example allows four flows of each family.
    let program = "
import socket
answered = 0
for n in range(6):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10 if n < 4 else 1)
    s.sendto(b'one', ('192.0.2.7', 1000 + n))
    try:
        s.recv(10); answered += 1
    except TimeoutError:
        pass
print(answered)";
    let mut bench = Bench::python(Caller::Ordinary, program);
    bench.datagrams = Some(address);
    assert_eq!(bench.lines(), ["4"]);
}

#[test]
fn a_restarted_sidecar_serves_what_waited() {
    use nix::sys::signal::Signal;
    for caller in callers() {
        let program = format!(
            "{READ}
import sys
print(read('192.0.2.1', 80), flush=True)
sys.stdin = None
import time, os
while not os.path.exists('killed'): time.sleep(0.01)
print(read('192.0.2.1', 81), flush=True)
{}
threading.Event().wait()",
            server(&[("127.0.0.1", "served")])
        );
        let bench = Bench::python(caller, &program);
        let running = bench.start();
        let first = running.told("sidecar")[0];
        kill(first, Signal::SIGKILL);
        std::fs::write(bench.folder().join("killed"), "").unwrap();
        let second = running.told("sidecar");
        assert!(second[0] != first && second[1] == 1, "{second:?}");
        assert_eq!(running.dial("127.0.0.1:8080"), "served");
        running.signal(Signal::SIGTERM);
        let output = running.finish();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("outbound 192.0.2.1:80 from {V4}\noutbound 192.0.2.1:81 from {V4}\n"),
            "{caller:?}"
        );
        bench.assert_gone();
    }
}

#[test]
fn one_family_is_all_an_app_needs() {
    for caller in callers() {
        let program = format!(
            "{READ}\nprint(read('2001:db8::1', 443))\nprint(read('192.0.2.1', 80))\nprint(read('orders', 80))"
        );
        let six = format!("outbound [2001:db8::1]:443 from {V6}");
        let four = format!("outbound 192.0.2.1:80 from {V4}");
        let none = "OSError".to_owned();
        for (only, said) in [
            (
                V6,
                [
                    six,
                    none.clone(),
                    format!("outbound [2001:2::9]:80 from {V6}"),
                ],
            ),
            (
                V4,
                [none, four, format!("outbound 240.240.0.9:80 from {V4}")],
            ),
        ] {
            let mut bench = Bench::python(caller, &program);
            bench.spec.addresses.v4.take_if(|_| only == V6);
            bench.spec.addresses.v6.take_if(|_| only == V4);
            bench.names.insert(
                "orders".into(),
                vec!["240.240.0.9".parse().unwrap(), "2001:2::9".parse().unwrap()],
            );
            assert_eq!(bench.lines(), said, "{caller:?} {only}");
        }
    }
}

#[test]
fn an_ordinary_app_binds_port_80() {
    for caller in callers() {
        let program = server(&[("0.0.0.0", "web")]).replace("8080", "80") + "print('bound')";
        let mut bench = Bench::python(caller, &program);
        if caller == Caller::Root {
            bench.spec.user =
                Some(ripstop_host::workload::User::lookup(&NOBODY.to_string()).unwrap());
        }
        assert_eq!(bench.lines(), ["bound"], "{caller:?}");
    }
}
