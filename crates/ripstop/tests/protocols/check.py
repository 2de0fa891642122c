"""Calls the servers of the mesh and says what went wrong: check.py NAME..."""

import http.client
import os
import smtplib
import socket
import ssl
import subprocess
import sys
import time
import traceback
import urllib.request

LIMIT = 20
HERE = os.path.dirname(os.path.abspath(__file__))


def dial(host, port):
    return socket.create_connection((host, port), timeout=LIMIT)


def rest(connection):
    data = b""
    while more := connection.recv(65536):
        data += more
    return data


def line(connection):
    data = b""
    while not data.endswith(b"\n"):
        more = connection.recv(1)
        assert more, f"ended after {data!r}"
        data += more
    return data


def smtp():
    """The server speaks first, a real one."""
    for _ in range(3):
        with smtplib.SMTP("mail", 25, timeout=LIMIT) as mail:
            mail.sendmail("a@mesh", ["b@mesh"], "Subject: hi\r\n\r\nhello")


def redis():
    """The client speaks first, a real server."""
    for turn in range(3):
        with dial("cache", 6379) as connection:
            connection.sendall(b"SET turn %d\r\n" % turn)
            assert line(connection) == b"+OK\r\n"
            connection.sendall(b"GET turn\r\n")
            assert line(connection) == b"$1\r\n"
            assert line(connection) == b"%d\r\n" % turn


def greeter():
    for _ in range(3):
        with dial("greeter", 7000) as connection:
            assert line(connection).startswith(b"hello, I am "), "no greeting"
            connection.sendall(b"thanks\n")
            assert line(connection) == b"you said thanks\n"


def both_first():
    """The client does not wait for the greeting."""
    for _ in range(3):
        with dial("greeter", 7000) as connection:
            connection.sendall(b"impatient\n")
            assert line(connection).startswith(b"hello, I am ")
            assert line(connection) == b"you said impatient\n"


def quiet():
    """The server answers when the client has ended its half, and not before."""
    for size in (5, 3_000_000):
        with dial("quiet", 7001) as connection:
            connection.sendall(b"x" * (size - 4) + b"last")
            connection.shutdown(socket.SHUT_WR)
            assert rest(connection) == b"%d bytes, ending in last" % size


def nearly_http():
    """What only looks like HTTP, and a tunnel that is asked of whoever serves there, arrive as they are."""
    for first in (b"GET /\xff HTTP/1.1\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n"):
        with dial("quiet", 7001) as connection:
            connection.sendall(first + b"last")
            connection.shutdown(socket.SHUT_WR)
            assert rest(connection) == b"%d bytes, ending in last" % (len(first) + 4)


def silent():
    """Not a byte from the client: its end alone reaches the server, and the answer comes back."""
    with dial("quiet", 7001) as connection:
        time.sleep(0.3)
        connection.shutdown(socket.SHUT_WR)
        assert rest(connection) == b"0 bytes, ending in "


def early():
    """The server ends its half first; ours stays open."""
    with dial("early", 7002) as connection:
        assert rest(connection) == b"all I have to say"
        time.sleep(0.2)
        connection.sendall(b"and I go on")


def http_unnamed():
    """Found to be HTTP: routes and retries apply."""
    for turn in range(3):
        with urllib.request.urlopen(f"http://web:8000/a{turn}", timeout=LIMIT) as answer:
            body = answer.read().decode()
            assert body.split()[1:] == ["routed", f"/a{turn}"], body
    for turn in range(5):
        with urllib.request.urlopen(f"http://web:8000/flaky/{os.getpid()}-{turn}", timeout=LIMIT) as answer:
            assert answer.status == 200


def http_byte_by_byte():
    """Detection takes what comes."""
    with dial("web", 8000) as connection:
        for byte in b"GET /slow HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n":
            connection.sendall(bytes([byte]))
            time.sleep(0.005)
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert b"routed /slow" in answer, answer


def http2():
    for turn in range(3):
        told = subprocess.run(["node", f"{HERE}/h2.js", "get", f"http://web2:8002/b{turn}"],
                              capture_output=True, text=True, timeout=LIMIT + 10)
        assert told.stdout == f"200 h2 /b{turn}\n", told


def tls():
    """Passed through: the certificate is the server's."""
    context = ssl.create_default_context(cafile=f"{HERE}/tls.crt")
    for _ in range(3):
        connection = http.client.HTTPSConnection("secure", 8443, timeout=LIMIT, context=context)
        connection.request("GET", "/tls")
        body = connection.getresponse().read()
        assert body.endswith(b" - /tls"), body
        connection.close()


def refused():
    """Nobody listens: the connection ends, it does not hang."""
    for _ in range(2):
        start = time.monotonic()
        try:
            with dial("refusing", 7100) as connection:
                connection.sendall(b"\x00anybody?\n")
                answer = rest(connection)
                assert answer == b"", answer
        except (ConnectionResetError, BrokenPipeError, ConnectionRefusedError):
            pass
        took = time.monotonic() - start
        assert took < 8, f"took {took:.1f} s"


def refused_silent():
    """The same for a client that waits for the server to speak."""
    start = time.monotonic()
    try:
        with dial("refusing", 7100) as connection:
            assert rest(connection) == b""
    except (ConnectionResetError, ConnectionRefusedError):
        pass
    took = time.monotonic() - start
    assert took < 8, f"took {took:.1f} s"


def refused_http():
    """HTTP to a port nobody listens on: an answer that says so."""
    with dial("refusing", 7100) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: refusing:7100\r\nConnection: close\r\n\r\n")
        answer = rest(connection)
        assert answer.startswith(b"HTTP/1.1 503"), answer


def fetch(host, port, path, family=socket.AF_UNSPEC):
    """One GET on a connection to the first address of that family; head and body."""
    address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0]
    with socket.socket(address[0], socket.SOCK_STREAM) as connection:
        connection.settimeout(LIMIT)
        connection.connect(address[4])
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = rest(connection).partition(b"\r\n\r\n")
        return head.decode(), body.decode()


def own_name():
    """A service calls its own virtual address."""
    assert fetch(SERVICE, 8000, "/own-name")[0].startswith("HTTP/1.1 200")


def own_address():
    """And its own address, by the port it listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("192.0.2.1", 9))
        address = out.getsockname()[0]
    assert address.startswith("10.88."), address
    assert fetch(address, 8080, "/own-address")[0].startswith("HTTP/1.1 200")


def own_host_name():
    assert fetch(socket.gethostname(), 8080, "/own-host-name")[0].startswith("HTTP/1.1 200")


def own_loopback():
    assert fetch("localhost", 8080, "/own-loopback")[0].startswith("HTTP/1.1 200")


def own_name_tcp():
    with dial(SERVICE, 7000) as connection:
        assert line(connection).startswith(b"hello, I am ")


def v6():
    """A client that uses nothing but AAAA."""
    assert fetch("web", 8000, "/v6", socket.AF_INET6)[0].startswith("HTTP/1.1 200")
    address = socket.getaddrinfo("greeter", 7000, socket.AF_INET6, socket.SOCK_STREAM)[0]
    with socket.socket(socket.AF_INET6) as connection:
        connection.settimeout(LIMIT)
        connection.connect(address[4])
        assert line(connection).startswith(b"hello, I am ")


def headless():
    """The workloads' own addresses, each led to its workload."""
    for family, count in ((socket.AF_INET, 2), (socket.AF_INET6, 2)):
        found = {each[4][0] for each in socket.getaddrinfo("nodes", 7003, family, socket.SOCK_STREAM)}
        assert len(found) == count, found
        names = set()
        for address in found:
            with dial(address, 7003) as connection:
                names.add(line(connection))
        assert len(names) == count, names


def allowed_tcp():
    with dial("greeter", 7000) as connection:
        assert line(connection).startswith(b"hello, I am ")


def denied_tcp():
    try:
        with dial("greeter", 7000) as connection:
            said = rest(connection)
    except ConnectionResetError:
        said = b""
    assert said == b"", said


def allowed_http():
    assert fetch("web", 8000, "/allowed")[0].startswith("HTTP/1.1 200")


def denied_http():
    head, _ = fetch("web", 8000, "/allowed")
    assert head.startswith("HTTP/1.1 403"), head


def routed_1000():
    assert fetch("web", 8000, "/")[1].split()[1] == "1000"


def wait_for(name):
    """Waits for the test to say so."""
    print("waiting", flush=True)
    end = time.monotonic() + 120
    while not os.path.exists(name):
        assert time.monotonic() < end
        time.sleep(0.05)


def when_silent():
    wait_for("silent")


def when_dead():
    wait_for("dead")


def first_use(host):
    """Of a service, while nobody can be asked: its name resolves, and HTTP is told why there is no answer."""
    start = time.monotonic()
    head, _ = fetch(host, 8000, "/")
    took = time.monotonic() - start
    assert head.startswith("HTTP/1.1 503"), head
    assert "x-ripstop-reason: discovery_timeout" in head, head
    assert took < 8, f"took {took:.1f} s"


def first_use_while_silent():
    first_use("unused")


def first_use_while_dead():
    first_use("never-used")


def outside_by_a_new_name():
    """The outside is nobody's to discover; the mesh is not waited for longer than a resolver waits."""
    for turn in range(2):
        start = time.monotonic()
        head, _ = fetch(f"{os.urandom(4).hex()}.outside.example", 80, "/")
        took = time.monotonic() - start
        assert head.startswith("HTTP/1.1 200"), head
        assert took < 5, f"took {took:.1f} s"


def outside_by_address():
    assert fetch("203.0.113.10", 80, "/")[0].startswith("HTTP/1.1 200")


def outside_declared():
    assert fetch("outside.example", 80, "/")[0].startswith("HTTP/1.1 200")


def nobody_there():
    """Opaque bytes to where nobody is: a dead endpoint, a port that the service does not have."""
    for host, port in [("gone.test", 7009), ("greeter", 7999)]:
        try:
            with dial(host, port) as connection:
                connection.sendall(b"\x00anybody?")
                said = rest(connection)
        except ConnectionResetError:
            said = b""
        assert said == b"", (host, said)


def kept_in_http():
    head, _ = fetch("203.0.113.10", 80, "/")
    assert head.startswith("HTTP/1.1 502") and "x-ripstop-reason: not_registered" in head, head


def kept_in_tcp():
    try:
        with dial("203.0.113.10", 80) as connection:
            connection.sendall(b"\x00anybody?")
            said = rest(connection)
    except ConnectionResetError:
        said = b""
    assert said == b"", said


def kept_in_metric():
    wanted = {"istio_requests_total{", "istio_tcp_connections_opened_total{"}
    end = time.monotonic() + LIMIT
    while wanted:
        assert time.monotonic() < end, (wanted, page)
        with urllib.request.urlopen(os.environ["RIPSTOP_METRICS"], timeout=LIMIT) as answer:
            page = answer.read().decode()
        for row in page.splitlines():
            if 'destination_service_name="BlackHoleCluster"' in row and 'response_flags="UH"' in row:
                wanted.discard(row.partition("{")[0] + "{")
        time.sleep(0.1)


def no_such_name():
    """It may be a service that came since: an error, and soon."""
    start = time.monotonic()
    try:
        found = socket.getaddrinfo("nobody-is-called-so", 80)
        raise AssertionError(found)
    except socket.gaierror as error:
        assert error.errno in (socket.EAI_AGAIN, socket.EAI_NONAME), error
    took = time.monotonic() - start
    assert took < 5, f"took {took:.1f} s"


def names():
    """What the C library makes of a mesh name in each of its forms, of outside names and of none."""
    def found(name, family):
        return sorted({each[4][0] for each in socket.getaddrinfo(name, 8000, family, socket.SOCK_STREAM)})
    for family, start in ((socket.AF_INET, "240.240."), (socket.AF_INET6, "2001:2:")):
        whole = found("web.default.svc.cluster.local", family)
        assert len(whole) == 1 and whole[0].startswith(start), whole
        for name in ("web", "WEB", "web.default", "web.default.svc", "web.default.svc.cluster.local."):
            assert found(name, family) == whole, name
        assert found("web.far", family) != whole
    assert found("outside.example", socket.AF_INET) == ["203.0.113.10"]
    for name in ("far-only", "web.nowhere", "none.example", "web.nowhere.svc.cluster.local"):
        try:
            raise AssertionError((name, found(name, socket.AF_UNSPEC)))
        except socket.gaierror as error:
            assert error.errno == socket.EAI_NONAME, (name, error)
    assert found("far-only.far", socket.AF_INET)
    assert fetch("web.far", 8000, "/")[0].startswith("HTTP/1.1 200")


def bound():
    """Apps on each of the addresses that an app may bind."""
    for host in ("bound-loopback", "bound-loopback6", "bound-any", "bound-own"):
        head, _ = fetch(host, 8000, f"/{host}")
        assert head.startswith("HTTP/1.1 200"), (host, head)


def listening():
    """From the host: nothing of the mesh that listens there lets plain text through to an app in STRICT."""
    asked = 0
    for table, family in (("/proc/net/tcp", socket.AF_INET), ("/proc/net/tcp6", socket.AF_INET6)):
        for row in open(table).readlines()[1:]:
            local, state = row.split()[1], row.split()[3]
            if state != "0A":
                continue
            raw, port = local.split(":")
            words = [bytes.fromhex(raw[at:at + 8])[::-1] for at in range(0, len(raw), 8)]
            address = socket.inet_ntop(family, b"".join(words))
            if address == "::" or int(port, 16) == 53:
                continue
            start = time.monotonic()
            try:
                with socket.create_connection((address, int(port, 16)), timeout=3) as connection:
                    connection.sendall(b"GET /secret HTTP/1.1\r\nHost: web:8000\r\nConnection: close\r\n\r\n")
                    said = rest(connection)
            except OSError as error:
                said = b""
                print(address, int(port, 16), repr(error), f"{time.monotonic() - start:.1f} s", flush=True)
            assert b"- /secret" not in said, (address, port, said)
            asked += address.startswith("127.88.")
    assert asked, "no sidecar listens"
    for address in sys.argv[2:]:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as connection:
            connection.settimeout(2)
            assert connection.connect_ex((address, 8080)) != 0, address


def run(*words):
    told = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT + 10,
                          env={**os.environ, "PGCONNECT_TIMEOUT": str(LIMIT), "HOME": "/nonexistent"})
    assert told.returncode == 0, told
    return told.stdout


def mariadb():
    """The server speaks first, and its own client answers."""
    ask = ("mariadb", "--no-defaults", "--protocol=tcp", f"--connect-timeout={LIMIT}", "--host=maria", "--port=3306", "--user=mesh",
           "--password=cloth", "--batch", "--skip-column-names", "--execute")
    for _ in range(3):
        assert run(*ask, "select 6 * 7") == "42\n"
    assert run(*ask, "create database if not exists shop; use shop; create table if not exists cups (n int) engine=innodb; "
                     "delete from cups; insert into cups values (1), (2), (39); select sum(n) from cups") == "42\n"
    assert run(*ask, "select repeat('x', 3000000)") == "x" * 3000000 + "\n"


def postgres():
    """The client speaks first, and asks for TLS before anything else."""
    ask = ("psql", "host=postgres port=5432 user=postgres dbname=postgres", "--no-psqlrc", "--tuples-only", "--no-align", "--command")
    for _ in range(3):
        assert run(*ask, "select 6 * 7") == "42\n"
    assert run(*ask, "select sum(n) from (values (1), (2), (39)) as cups (n)") == "42\n"
    assert run(*ask, "select repeat('x', 3000000)") == "x" * 3000000 + "\n"


def nginx():
    for turn in range(3):
        head, body = fetch("web", 8000, f"/{turn}")
        assert head.startswith("HTTP/1.1 200") and body == f"nginx serves /{turn}\n", (head, body)


def mutual_tls():
    """What the servers' own sidecars say of the connections."""
    import re
    missing = {("istio_tcp_connections_opened_total", "maria"), ("istio_tcp_connections_opened_total", "postgres"),
               ("istio_requests_total", "web")}
    end = time.monotonic() + LIMIT
    while missing:
        assert time.monotonic() < end, (missing, page)
        with urllib.request.urlopen(os.environ["RIPSTOP_METRICS"], timeout=LIMIT) as answer:
            page = answer.read().decode()
        for row in page.splitlines():
            if 'reporter="destination"' not in row:
                continue
            name = row.split("{")[0]
            label = dict(re.findall(r'(\w+)="([^"]*)"', row))
            if name in ("istio_tcp_connections_opened_total", "istio_requests_total") and label["source_app"] == "client":
                assert label["connection_security_policy"] == "mutual_tls", row
                assert label["source_principal"] == "spiffe://cluster.local/ns/default/sa/client", row
                missing.discard((name, label["destination_service_name"]))
        time.sleep(0.1)


def unused():
    assert fetch("unused", 8000, "/")[0].startswith("HTTP/1.1 200")


SERVICE = os.environ.get("SERVICE", "")
failed = 0
for name in sys.argv[1:2] if sys.argv[1] == "listening" else sys.argv[1:]:
    start = time.monotonic()
    try:
        globals()[name]()
        print(f"ok   {name} {time.monotonic() - start:.3f} s", flush=True)
    except BaseException:
        failed += 1
        print(f"FAIL {name} {time.monotonic() - start:.3f} s\n{traceback.format_exc()}", flush=True)
sys.exit(1 if failed else 0)
