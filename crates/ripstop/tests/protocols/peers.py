"""Servers that speak as real ones do, standard library only: peers.py KIND PORT [ARG]

ARG is the folder of a certificate for tls, and the address to bind for others: `own` is the workload's, `::` is any."""

import http.server
import os
import signal
import socket
import socketserver
import ssl
import sys
import threading

KIND, PORT = sys.argv[1], int(sys.argv[2])
ARG = sys.argv[3] if len(sys.argv) > 3 else ""
WHO = os.urandom(4).hex()


def own():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("192.0.2.1", 9))
        return out.getsockname()[0]


BIND = "::" if KIND == "tls" or not ARG else own() if ARG == "own" else ARG


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512
    address_family = socket.AF_INET6 if ":" in BIND else socket.AF_INET

    def server_bind(self):
        if BIND == "::":
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, request, client_address):
        pass


class Greeter(socketserver.StreamRequestHandler):
    """Speaks first, then echoes lines."""

    def handle(self):
        self.wfile.write(b"hello, I am " + WHO.encode() + b"\n")
        for line in self.rfile:
            self.wfile.write(b"you said " + line)


class Quiet(socketserver.StreamRequestHandler):
    """Says nothing until the client has ended its half."""

    def handle(self):
        received = self.rfile.read()
        self.wfile.write(b"%d bytes, ending in %s" % (len(received), received[-4:]))


class Echo(socketserver.StreamRequestHandler):
    """Echoes lines; the client speaks first."""

    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


class Early(socketserver.StreamRequestHandler):
    """Ends its half first and still reads: answers on a second connection are not needed."""

    def handle(self):
        self.wfile.write(b"all I have to say")
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        Early.heard = self.rfile.read()


class Web(http.server.BaseHTTPRequestHandler):
    """Answers who it is; /flaky/ID fails once per id; /upgrade becomes an echo of bytes."""

    protocol_version = "HTTP/1.1"
    seen, lock = set(), threading.Lock()

    def do_GET(self):
        if self.path.startswith("/flaky/"):
            with Web.lock:
                first = self.path not in Web.seen
                Web.seen.add(self.path)
            if first:
                return self.answer(503, "the first call fails")
        if self.path == "/upgrade":
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "websocket")
            self.end_headers()
            self.close_connection = True
            while data := self.connection.recv(4096):
                self.connection.sendall(data)
            return None
        return self.answer(200, f"{WHO} {self.headers.get('x-routed', '-')} {self.path}")

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def resolve(datagrams):
    """Answers for outside.example and all below it; every other name does not exist."""
    while True:
        query, client = datagrams.recvfrom(4096)
        end = query.index(b"\0", 12) + 5
        known = query[12:end - 4].lower().endswith(b"\x07outside\x07example\0")
        address = known and query[end - 4:end - 2] == b"\0\x01"
        answer = query[:2] + (b"\x81\x80" if known else b"\x81\x83") + b"\0\1\0" + bytes([address]) + b"\0\0\0\0" + query[12:end]
        if address:
            answer += b"\xc0\x0c\0\1\0\1\0\0\0\0\0\x04" + socket.inet_aton("203.0.113.10")
        datagrams.sendto(answer, client)


HANDLERS = {"greeter": Greeter, "quiet": Quiet, "echo": Echo, "early": Early, "web": Web, "tls": Web, "outside": Web}
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server = Server((BIND, PORT), HANDLERS[KIND])
if KIND == "outside":
    resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    resolver.bind(("203.0.113.53", 53))
    threading.Thread(target=resolve, args=(resolver,), daemon=True).start()
    print("serving", flush=True)
if KIND == "tls":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ARG + "/tls.crt", ARG + "/tls.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
