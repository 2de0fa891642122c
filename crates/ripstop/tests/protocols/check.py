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
        assert body == b"tls - /tls", body
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
