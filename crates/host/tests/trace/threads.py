"""A thread per connection, and whatever else one does with threads. `threads.py [prefork|forking] LEAF_PORT` prints its own
port; with prefork, three processes accept; with forking, there is a process for each connection."""

import errno
import http.client
import http.server
import os
import queue
import random
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

LEAF = int(sys.argv[-1])
POOL = ThreadPoolExecutor(8)
IDLE = queue.LifoQueue()  # Keep-alive connections that the requests share.
PORTS = queue.Queue()  # Local ports that are used again and again.
JOBS = queue.Queue()
STARTED = set()
LOCK = threading.Lock()


def call(path):
    conn = http.client.HTTPConnection("127.0.0.1", LEAF)
    conn.request("GET", path)
    conn.getresponse().read()
    conn.close()


def pooled(path):
    try:
        conn = IDLE.get_nowait()
    except queue.Empty:
        conn = http.client.HTTPConnection("127.0.0.1", LEAF)
    conn.request("POST", path, body=b"x" * 100)
    conn.getresponse().read()
    IDLE.put(conn)


def leave_from(port):
    """A connection from this local port, or from another one where somebody else has it by now."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        sock.bind(("127.0.0.1", port))
        sock.connect(("127.0.0.1", LEAF))
        return sock, port
    except OSError as error:
        sock.close()
        if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            raise
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return leave_from(port)


def same_port(path):
    sock, port = leave_from(PORTS.get())
    sock.sendall(b"GET %s HTTP/1.1\r\nHost: leaf\r\n\r\n" % path.encode())
    sock.recv(65536)
    sock.close()
    PORTS.put(port)


def once(name, start):
    with LOCK:
        if name not in STARTED:
            STARTED.add(name)
            start()


def background(path):
    while True:
        call(path)
        time.sleep(0.005)


def worker():
    while True:
        call(JOBS.get())


def pause():
    time.sleep(random.random() * 0.01)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def do_GET(self):
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        self.later = None
        getattr(self, query["pattern"])(query["id"])
        self.answer()
        if self.later:
            self.later()

    def answer(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def log_message(self, *_):
        pass

    def immediate(self, id):
        call("/leaf?id=" + id)

    def urllib(self, id):
        urllib.request.urlopen("http://127.0.0.1:%d/leaf?id=%s" % (LEAF, id)).read()

    def delayed(self, id):
        pause()
        call("/leaf?id=" + id)

    def sequential(self, id):
        for _ in range(3):
            pooled("/leaf?id=" + id)
            pause()

    def fanout(self, id):
        threads = [threading.Thread(target=call, args=("/leaf?id=" + id,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def executor(self, id):
        list(POOL.map(pooled, ["/leaf?id=" + id] * 2))

    def timer(self, id):
        done = threading.Event()
        threading.Timer(random.random() * 0.01, lambda: (call("/leaf?id=" + id), done.set())).start()
        done.wait()

    def pooled(self, id):
        pause()
        pooled("/leaf?id=" + id)

    def reuse(self, id):
        same_port("/leaf?id=" + id)

    def after(self, id):
        pooled("/leaf?id=" + id)
        self.later = lambda: (pause(), pooled("/late?id=" + id))

    def straggler(self, id):
        def late():
            for _ in range(3):
                pause()
                call("/late?id=" + id)

        threading.Thread(target=late).start()
        POOL.submit(lambda: (pause(), pause(), pooled("/late?id=" + id)))

    def lazy_poller(self, id):
        once("poller", lambda: threading.Thread(target=background, args=("/late?id=" + id,), daemon=True).start())
        call("/leaf?id=" + id)

    def lazy_worker(self, id):
        once("worker", lambda: threading.Thread(target=worker, daemon=True).start())
        JOBS.put("/late?id=" + id)
        pause()
        call("/leaf?id=" + id)


class Forking(socketserver.ForkingMixIn, http.server.HTTPServer):
    max_children = 200


class Server(Forking if sys.argv[1] == "forking" else http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


for _ in range(4):
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", 0))
        PORTS.put(free.getsockname()[1])
server = Server(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
children = []
if sys.argv[1] == "prefork":
    for _ in range(2):
        children.append(os.fork())
        if not children[-1]:
            children = []
            break
    signal.signal(signal.SIGTERM, lambda *_: [os.kill(child, signal.SIGKILL) for child in children] and None or os._exit(0))
threading.Thread(target=background, args=("/background",), daemon=True).start()
server.serve_forever()
