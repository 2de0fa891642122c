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
    assert address.startswith("10."), address
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


def go():
    """Waits for the test to say so, with a name resolved that is not used yet."""
    UNUSED.append(socket.getaddrinfo("unused", 8000, socket.AF_INET, socket.SOCK_STREAM)[0][4])
    print("waiting", flush=True)
    end = time.monotonic() + 60
    while not os.path.exists("go"):
        assert time.monotonic() < end
        time.sleep(0.05)


def unknown_in_time():
    """A first use while nobody can be asked."""
    start = time.monotonic()
    with dial(*UNUSED[0]) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: unused:8000\r\nConnection: close\r\n\r\n")
        head = rest(connection).decode()
    assert head.startswith("HTTP/1.1 503"), head
    assert "x-ripstop-reason: discovery_timeout" in head, head
    assert time.monotonic() - start < 8


def unused():
    assert fetch("unused", 8000, "/")[0].startswith("HTTP/1.1 200")


UNUSED = []
SERVICE = os.environ.get("SERVICE", "")
failed = 0
for name in sys.argv[1:]:
    start = time.monotonic()
    try:
        globals()[name]()
        print(f"ok   {name} {time.monotonic() - start:.3f} s", flush=True)
    except BaseException:
        failed += 1
        print(f"FAIL {name} {time.monotonic() - start:.3f} s\n{traceback.format_exc()}", flush=True)
sys.exit(1 if failed else 0)
