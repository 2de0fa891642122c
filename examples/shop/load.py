"""The load generator: RATE (default 10) requests a second to the shop until it is stopped, or COUNT of them.

One request in twenty asks the price service directly, which the allow-list forbids: the live table shows it denied.
Every ten seconds, and at the end, it prints how the answers were. GET /healthz and GET /counts on PORT.
"""

import collections
import concurrent.futures
import itertools
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "8080"))
RATE = float(os.environ.get("RATE", "10"))
COUNT = int(os.environ.get("COUNT", "0"))
SHOP = os.environ.get("SHOP", "http://shop")
PRICES = os.environ.get("PRICES", "http://prices")

# The machine's own HTTP_PROXY is not for these.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))
STOP = threading.Event()
LOCK = threading.Lock()
COUNTS = collections.Counter()


def ask(number):
    if number % 20 == 19:
        name, url = "prices directly", f"{PRICES}/prices/1"
    elif number % 4 == 0:
        name, url = "page", f"{SHOP}/"
    else:
        name, url = "product", f"{SHOP}/product/{number % 5 + 1}"
    try:
        with HTTP.open(url, timeout=10) as response:
            body = response.read()
            result = str(response.status)
            if name == "product" and json.loads(body)["missing"]:
                result += " with gaps"
    except urllib.error.HTTPError as error:
        error.read()
        result = str(error.code)
    except (OSError, ValueError) as error:
        result = type(error).__name__
    with LOCK:
        COUNTS[f"{name} {result}"] += 1


def report():
    with LOCK:
        print("load: " + (", ".join(f"{name}: {count}" for name, count in sorted(COUNTS.items())) or "nothing yet"), flush=True)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        with LOCK:
            body = json.dumps(COUNTS if self.path == "/counts" else {"ok": True}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: STOP.set())
    server = ThreadingHTTPServer(("0.0.0.0", PORT), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"load: {RATE:g} requests a second to {SHOP}", flush=True)
    next_report = time.monotonic() + 10
    # A pool of 20 bounds what is under way at once, whatever the shop does.
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        waiting = threading.Semaphore(20)
        for number in range(COUNT) if COUNT else itertools.count():
            if STOP.is_set():
                break
            waiting.acquire()
            pool.submit(ask, number).add_done_callback(lambda _: waiting.release())
            if time.monotonic() >= next_report:
                report()
                next_report += 10
            STOP.wait(1 / RATE)
    report()
    server.shutdown()


if __name__ == "__main__":
    main()
