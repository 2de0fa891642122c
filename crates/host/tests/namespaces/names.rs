//! Names, through the libc resolver and by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use crate::bench::{Bench, callers};

/// A resolver outside: answers every A query with 198.51.100.7, names that begin with `none` and those of the search
/// domain with NXDOMAIN, and those that begin with `long` over datagrams with a truncated answer.
fn outside() -> SocketAddr {
    // A port that is free for both.
    let (datagrams, streams) = crate::bench::eventually("a port", || {
        let datagrams = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
        let address = datagrams.local_addr().map_err(|error| error.to_string())?;
        let streams = TcpListener::bind(address).map_err(|error| error.to_string())?;
        Ok((datagrams, streams))
    });
    let address = datagrams.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            datagrams
                .send_to(&answer(&buffer[..length], true), from)
                .unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in streams.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let answer = answer(&query, false);
            stream
                .write_all(&(answer.len() as u16).to_be_bytes())
                .unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    address
}

fn answer(query: &[u8], datagram: bool) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut answer = query[..end].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    let name = String::from_utf8_lossy(&query[13..end]).into_owned();
    if name.starts_with("none") || name.contains("corp") {
        answer[3] |= 3;
    } else if name.starts_with("long") && datagram {
        answer[2] |= 2;
    } else if query[end - 3] == 1 {
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 198, 51, 100, 7]);
    }
    answer
}

const LOOK_UP: &str = r#"
import socket
def names(name, family=socket.AF_UNSPEC):
    try:
        found = socket.getaddrinfo(name, 80, family, socket.SOCK_STREAM)
        return sorted(set(address[4][0] for address in found))
    except socket.gaierror as e:
        return {socket.EAI_AGAIN: 'again', socket.EAI_NONAME: 'no such name', socket.EAI_NODATA: 'no address'}[e.errno]
"#;

/// A name of the mesh, as it may be asked for.
const FORMS: [&str; 3] = ["orders", "orders.shop", "orders.shop.svc.cluster.local"];

fn bench(caller: crate::bench::Caller, program: &str) -> Bench {
    let mut bench = Bench::python(caller, &format!("{LOOK_UP}{program}"));
    bench.nameservers = vec![outside()];
    for name in FORMS.into_iter().chain(["ip/240.240.0.9"]) {
        bench.names.insert(
            name.into(),
            vec!["240.240.0.9".parse().unwrap(), "2001:2::9".parse().unwrap()],
        );
    }
    bench
        .names
        .insert("four".into(), vec!["240.240.0.4".parse().unwrap()]);
    bench.names.insert("silent".into(), vec![]);
    bench
}

#[test]
fn libc_finds_mesh_names_outside_names_and_their_absence() {
    for caller in callers() {
        let program = "
print(names('orders'), names('orders.shop'), names('orders.shop.svc.cluster.local'))
print(names('four'), names('four', socket.AF_INET6))
print(names('silent'))
print(names('example.com', socket.AF_INET), names('none.example'), names('long.example', socket.AF_INET))
print(names('localhost', socket.AF_INET), names('laptop', socket.AF_INET))
print(names('host.ripstop.internal'))
print(socket.gethostbyaddr('240.240.0.9')[0])
print(open('/etc/resolv.conf').read().splitlines()[1:])
print([line for line in open('/etc/nsswitch.conf') if line.startswith('hosts')])";
        let mut bench = bench(caller, program);
        // A name that no /etc/hosts has.
        bench.spec.resolver.hostname = "laptop".into();
        assert_eq!(
            bench.lines(),
            [
                "['2001:2::9', '240.240.0.9'] ['2001:2::9', '240.240.0.9'] ['2001:2::9', '240.240.0.9']",
                "['240.240.0.4'] no address",
                "again",
                "['198.51.100.7'] no such name ['198.51.100.7']",
                "['127.0.0.1'] ['10.88.0.5']",
                "no such name",
                "ip-240.240.0.9.default.svc.cluster.local",
                "['nameserver 127.0.0.1', 'search corp.example', 'options ndots:0']",
                r"['hosts: files dns\n']",
            ],
            "{caller:?}"
        );
    }
}

#[test]
fn any_resolver_address_is_captured_over_udp_and_tcp() {
    for caller in callers() {
        let program = r"
import struct
def query(name):
    labels = b''.join(bytes([len(label)]) + label for label in name.encode().split(b'.'))
    return b'\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00' + labels + b'\x00\x00\x01\x00\x01'
def read(stream, length):
    data = b''
    while len(data) < length:
        data += stream.recv(length - len(data))
    return data
def ask(server, name, kind):
    family = socket.AF_INET6 if ':' in server else socket.AF_INET
    with socket.socket(family, kind) as s:
        s.settimeout(30); s.connect((server, 53))
        if kind == socket.SOCK_DGRAM:
            s.send(query(name)); answer = s.recv(4096)
        else:
            s.sendall(struct.pack('>H', len(query(name))) + query(name))
            answer = read(s, struct.unpack('>H', read(s, 2))[0])
        return '.'.join(str(byte) for byte in answer[-4:])
for server in ['127.0.0.1', '127.0.0.53', '127.0.0.11', '::1', '8.8.8.8', '2001:4860:4860::8888']:
    print(server, ask(server, 'orders', socket.SOCK_DGRAM), ask(server, 'orders', socket.SOCK_STREAM),
          ask(server, 'example.com', socket.SOCK_DGRAM), ask(server, 'example.com', socket.SOCK_STREAM))";
        let lines = bench(caller, program).lines();
        let answers = "240.240.0.9 240.240.0.9 198.51.100.7 198.51.100.7";
        let servers = [
            "127.0.0.1",
            "127.0.0.53",
            "127.0.0.11",
            "::1",
            "8.8.8.8",
            "2001:4860:4860::8888",
        ];
        assert_eq!(
            lines,
            servers.map(|server| format!("{server} {answers}")),
            "{caller:?}"
        );
    }
}

#[test]
fn no_outside_resolver_is_a_quick_failure_for_outside_names_only() {
    for caller in callers() {
        let mut bench = bench(
            caller,
            "print(names('example.com'), names('four', socket.AF_INET))",
        );
        // Nothing listens there, over either transport.
        let closed = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        bench.nameservers = vec![closed];
        assert_eq!(bench.lines(), ["again ['240.240.0.4']"], "{caller:?}");
    }
}

/// getaddrinfo of a static musl program: no NSS, its own resolv.conf parser, A and AAAA in parallel.
const MUSL: &str = r#"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
int main(int count, char **names) {
    for (int n = 1; n < count; n++) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
        int error = getaddrinfo(names[n], "80", &hints, &found);
        printf("%s", names[n]);
        if (error) { printf(" %s\n", gai_strerror(error)); continue; }
        for (; found; found = found->ai_next) {
            char text[64];
            void *address = found->ai_family == AF_INET6
                ? (void *)&((struct sockaddr_in6 *)found->ai_addr)->sin6_addr
                : (void *)&((struct sockaddr_in *)found->ai_addr)->sin_addr;
            printf(" %s", inet_ntop(found->ai_family, address, text, sizeof text));
        }
        printf("\n");
    }
    return 0;
}
"#;

#[test]
fn a_static_musl_program_finds_the_same() {
    let compiler = std::path::Path::new("/usr/bin/musl-gcc");
    assert!(
        compiler.exists(),
        "musl-gcc is missing: `apt-get install musl-tools`"
    );
    for caller in callers() {
        let mut bench = bench(caller, "");
        let source = bench.folder().join("names.c");
        let program = bench.folder().join("names");
        std::fs::write(&source, MUSL).unwrap();
        let built = std::process::Command::new(compiler)
            .arg("-static")
            .arg(&source)
            .arg("-o")
            .arg(&program)
            .status()
            .unwrap();
        assert!(built.success());
        bench.spec.command = vec![program.display().to_string()];
        bench.spec.command.extend(FORMS.map(str::to_owned));
        let asked = ["four", "example.com", "none.example", "silent"];
        bench.spec.command.extend(asked.map(str::to_owned));
        // The order of addresses is musl's own affair.
        let sorted = |line: &String| {
            let mut words: Vec<&str> = line.split(' ').collect();
            if line.contains(':') {
                words[1..].sort_unstable();
            }
            words.join(" ")
        };
        assert_eq!(
            bench.lines().iter().map(sorted).collect::<Vec<_>>(),
            [
                "orders 2001:2::9 240.240.0.9",
                "orders.shop 2001:2::9 240.240.0.9",
                "orders.shop.svc.cluster.local 2001:2::9 240.240.0.9",
                "four 240.240.0.4",
                "example.com 198.51.100.7",
                "none.example Name does not resolve",
                "silent Try again",
            ],
            "{caller:?}"
        );
    }
}

#[test]
fn node_finds_the_same_with_both_of_its_resolvers() {
    let node = std::path::Path::new("/usr/bin/node");
    assert!(node.exists(), "node is missing: `apt-get install nodejs`");
    for caller in callers() {
        let mut bench = bench(caller, "");
        let program = "
const dns = require('dns').promises, net = require('net');
const code = error => error.code;
(async () => {
  // getaddrinfo in a thread, then c-ares.
  for (const form of ['orders', 'orders.shop', 'orders.shop.svc.cluster.local'])
    console.log((await dns.lookup(form, {all: true})).map(found => found.address).sort().join(' '), await dns.resolve4(form).then(String));
  console.log(await dns.resolve4('orders').then(String), await dns.resolve6('orders').then(String));
  console.log(await dns.resolve6('four').catch(code), await dns.resolve4('none.example').catch(code));
  console.log(await dns.resolve4('example.com').then(String), await dns.resolve4('long.example').then(String));
  net.connect(80, 'four').on('data', data => console.log(String(data).trim()));
})();";
        bench.spec.command = ["/usr/bin/node", "-e", program].map(str::to_owned).into();
        assert_eq!(
            bench.lines(),
            [
                "2001:2::9 240.240.0.9 240.240.0.9",
                "2001:2::9 240.240.0.9 240.240.0.9",
                "2001:2::9 240.240.0.9 240.240.0.9",
                "240.240.0.9 2001:2::9",
                "ENODATA ENOTFOUND",
                "198.51.100.7 198.51.100.7",
                "outbound 240.240.0.4:80 from 10.88.0.5",
            ],
            "{caller:?}"
        );
    }
}

/// Go's own resolver, which asks for both types at once, each on a socket of its own, with EDNS0.
const GO: &str = r#"package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strings"
	"time"
)

func main() {
	for _, name := range os.Args[1:] {
		found, err := net.LookupHost(name)
		var dns *net.DNSError
		switch {
		case errors.As(err, &dns) && dns.IsNotFound:
			found = []string{"no such name"}
		case errors.As(err, &dns) && dns.IsTemporary:
			found = []string{"again"}
		case err != nil:
			found = []string{err.Error()}
		}
		sort.Strings(found)
		fmt.Println(name, strings.Join(found, " "))
	}
	connection, err := net.DialTimeout("tcp", "four:80", 30*time.Second)
	if err != nil {
		panic(err)
	}
	said, _ := io.ReadAll(connection)
	fmt.Print(string(said))
}
"#;

/// Builds it once; what Go's tool makes of the standard library is kept with our own build.
fn go_program() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("names.go");
    std::fs::write(&source, GO).unwrap();
    let program = folder.join("names");
    let mut go = std::process::Command::new(ripstop_testkit::program("go"));
    let built = go
        .args(["build", "-o"])
        .args([&program, &source])
        .env("CGO_ENABLED", "0")
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .env("GOTOOLCHAIN", "local")
        .env("GOCACHE", folder.join("cache"))
        .env("HOME", &folder)
        .status()
        .unwrap();
    assert!(built.success());
    program
}

#[test]
fn a_go_program_without_libc_finds_the_same() {
    let program = go_program();
    for caller in callers() {
        let mut bench = bench(caller, "");
        let program = ripstop_testkit::caller::copy(&program, bench.folder());
        bench.spec.command = vec![program.display().to_string()];
        bench.spec.command.extend(FORMS.map(str::to_owned));
        let asked = [
            "four",
            "example.com",
            "long.example",
            "none.example",
            "silent",
        ];
        bench.spec.command.extend(asked.map(str::to_owned));
        assert_eq!(
            bench.lines(),
            [
                "orders 2001:2::9 240.240.0.9",
                "orders.shop 2001:2::9 240.240.0.9",
                "orders.shop.svc.cluster.local 2001:2::9 240.240.0.9",
                "four 240.240.0.4",
                "example.com 198.51.100.7",
                "long.example 198.51.100.7",
                "none.example no such name",
                "silent again",
                "outbound 240.240.0.4:80 from 10.88.0.5",
            ],
            "{caller:?}"
        );
    }
}
