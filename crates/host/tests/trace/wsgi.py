"""An application for servers of processes that accept together."""

import http.client
import multiprocessing
import os
import random
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

LEAF = int(os.environ["LEAF"])
STARTED = {}


def call(path):
    conn = http.client.HTTPConnection("127.0.0.1", LEAF)
    conn.request("GET", path)
    conn.getresponse().read()
    conn.close()


def pool(kind):
    """Made when it is first needed: after the fork."""
    if kind not in STARTED:
        STARTED[kind] = ThreadPoolExecutor(4) if kind == "threads" else multiprocessing.Pool(2)
    return STARTED[kind]


def app(environ, start_response):
    query = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    path = "/leaf?id=" + query["id"]
    environ["wsgi.input"].read()
    if query["pattern"] == "executor":
        pool("threads").submit(call, path).result()
    elif query["pattern"] == "processes":
        pool("processes").apply(call, (path,))
    else:
        if query["pattern"] == "delayed":
            time.sleep(random.random() * 0.01)
        for _ in range(3 if query["pattern"] == "sequential" else 1):
            call(path)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
