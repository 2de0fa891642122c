"""A program with an event loop of its own and a pool of threads. `reactor.py hands-over|reads LEAF_PORT` prints its own
port. With hands-over the loop waits until a connection has something to read, and a thread reads it; with reads the
loop reads whatever has come, and hands the requests over afterwards."""

import http.client
import queue
import selectors
import socket
import sys
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

KIND, LEAF = sys.argv[1], int(sys.argv[2])
POOL = ThreadPoolExecutor(16)
IDLE = queue.LifoQueue()
READY = queue.SimpleQueue()  # Connections whose request was served: the loop watches them again.
selector = selectors.DefaultSelector()


def call(path, keep):
    try:
        conn = IDLE.get_nowait() if keep else http.client.HTTPConnection("127.0.0.1", LEAF)
    except queue.Empty:
        conn = http.client.HTTPConnection("127.0.0.1", LEAF)
    conn.request("GET", path)
    conn.getresponse().read()
    if keep:
        IDLE.put(conn)


def length(data):
    """Of the whole request, once its head is there."""
    head, end, _ = data.partition(b"\r\n\r\n")
    lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(head) + 4 + (int(lines[0].split(b":")[1]) if lines else 0) if end else len(data) + 1


def serve(conn, data):
    while len(data) < length(data):
        more = conn.recv(65536)
        if not more:
            return conn.close()
        data += more
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(data.split()[1].decode()).query))
    call("/leaf?id=" + query["id"], query["pattern"] == "pooled")
    conn.setblocking(True)
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    READY.put(conn)
    wake.send(b"x")


def read(conn):
    if KIND == "hands-over":
        conn.setblocking(True)
        selector.unregister(conn)
        POOL.submit(serve, conn, b"")
        return None
    data = partial.pop(conn, b"") + conn.recv(65536)
    if len(data) < length(data) and data:
        partial[conn] = data
        return None
    selector.unregister(conn)
    return (conn, data) if data else conn.close()


partial = {}
wake, woken = socket.socketpair()
listener = socket.create_server(("127.0.0.1", 0), backlog=128)
selector.register(listener, selectors.EVENT_READ)
selector.register(woken, selectors.EVENT_READ)
print(listener.getsockname()[1], flush=True)
while True:
    complete = []
    for ready, _ in selector.select():
        if ready.fileobj is listener:
            conn, _ = listener.accept()
            conn.setblocking(False)
            selector.register(conn, selectors.EVENT_READ)
        elif ready.fileobj is woken:
            woken.recv(1)
            conn = READY.get()
            conn.setblocking(False)
            selector.register(conn, selectors.EVENT_READ)
        else:
            complete.append(read(ready.fileobj))
    for request in complete:
        if request:
            POOL.submit(serve, *request)
