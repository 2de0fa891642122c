"""Prices, slow: GET /prices/ID answers at once, but one time in ten (SLOW_EVERY) only after two seconds (SLOW_SECONDS)."""

import itertools
import json
import os
import re
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "8080"))
SLOW_EVERY = int(os.environ.get("SLOW_EVERY", "10"))
SLOW_SECONDS = float(os.environ.get("SLOW_SECONDS", "2"))
COUNT = itertools.count(1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, {"ok": True})
        match = re.fullmatch(r"/prices/([0-9]{1,6})", self.path)
        if not match:
            return self.answer(404, {"error": "there is GET /prices/ID"})
        if next(COUNT) % SLOW_EVERY == 0:
            time.sleep(SLOW_SECONDS)
        return self.answer(200, {"cents": 499 + 250 * (int(match[1]) % 7), "currency": "EUR"})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the caller gave up

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    server = Server(("0.0.0.0", PORT), Handler)
    for number in (signal.SIGTERM, signal.SIGINT):
        # shutdown() waits for the serving loop, which is this thread's.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"prices: listening on port {PORT}", flush=True)
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
