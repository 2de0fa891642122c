"""Keeps connections busy and tells which are lost: hold.py KIND:COUNT:HOST:PORT... ends when the file STOP exists.

KIND is tcp (a server that greets), ws (an upgraded connection), http (one kept alive) or get (a connection for each request).
Says `open` when all are, `lost KIND REASON` for each that is, and the count of exchanges at the end.
"""

import collections
import os
import socket
import sys
import threading
import time

LIMIT = 20
STOP = os.environ.get("STOP", "stop")
WHO = os.environ.get("WHO", "holder")
done, lost = collections.Counter(), collections.Counter()
opened = threading.Semaphore(0)
lock = threading.Lock()


def say(*words):
    with lock:
        print(WHO, *words, flush=True)


def until(connection, end):
    data = b""
    while end not in data:
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("closed" + (f" after {data!r}" if data else ""))
        data += more
    return data


def dial(host, port):
    return socket.create_connection((host, port), timeout=LIMIT)


def exchange(connection, text, answer):
    connection.sendall(text)
    until(connection, answer)


def tcp(host, port):
    connection = dial(host, port)
    until(connection, b"\n")
    return lambda: exchange(connection, b"ping\n", b"you said ping\n")


def ws(host, port):
    connection = dial(host, port)
    connection.sendall(
        f"GET /upgrade HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode())
    head = until(connection, b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(f"no upgrade: {head!r}")
    return lambda: exchange(connection, b"ping", b"ping")


def request(connection, host, port):
    connection.sendall(f"GET /held HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    head, _, body = until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(head.decode())
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < int(length.split(b":")[1]):
        more = connection.recv(65536)
        if not more:
            raise ConnectionError("closed within a body")
        body += more


def http(host, port):
    connection = dial(host, port)
    request(connection, host, port)
    return lambda: request(connection, host, port)


def get(host, port):
    def once():
        with dial(host, port) as connection:
            request(connection, host, port)
    return once


def hold(kind, host, port):
    try:
        step = globals()[kind](host, port)
        opened.release()
        while not os.path.exists(STOP):
            step()
            done[kind] += 1
            time.sleep(0.1)
    except OSError as error:
        opened.release()
        lost[kind] += 1
        say("lost", kind, repr(error))
        if kind == "get" and not os.path.exists(STOP):
            time.sleep(0.1)
            hold(kind, host, port)


threads = []
for word in sys.argv[1:]:
    kind, count, host, port = word.split(":")
    for _ in range(int(count)):
        thread = threading.Thread(target=hold, args=(kind, host, int(port)), daemon=True)
        thread.start()
        threads.append(thread)
for _ in threads:
    opened.acquire()
say("open")
for thread in threads:
    thread.join()
say("ended with", *[f"{kind}={done[kind]}" for kind in sorted(done)], "and lost", sum(lost.values()))
