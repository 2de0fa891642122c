"""The user service: GET /users/ID answers with the user, after it has failed for that ID.

The first three requests for an ID fail, in turn with 503, with 409 and with a connection that is closed without an
answer. The count is kept in a file that every replica of this service on this machine shares, so a retry fails the
same way whichever replica it meets. FAILURES names the file, FAILURES_PER_ID (0 to 3) the number of failures.
"""

import fcntl
import json
import os
import re
import signal
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "8080"))
COLOR = os.environ.get("COLOR", "none")
LIMIT = int(os.environ.get("FAILURES_PER_ID", "3"))
FAILURES = os.environ.get("FAILURES", os.path.join(tempfile.gettempdir(), f"orders-failures-{os.getuid()}.json"))


def failures_so_far(user):
    """How often this ID has failed, before this request; counts one more unless it has failed enough."""
    with open(os.open(FAILURES, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released with the file
        counts = json.loads(file.read() or "{}")
        count = counts.get(user, 0)
        if count < LIMIT:
            counts[user] = count + 1
            file.seek(0)
            file.truncate()
            json.dump(counts, file)
        return count


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, {"ok": True})
        match = re.fullmatch(r"/users/([A-Za-z0-9-]{1,64})", self.path)
        if not match:
            return self.answer(404, {"error": "there is GET /users/ID"})
        user = match[1]
        failed = failures_so_far(user)
        if failed < LIMIT:
            return [self.overloaded, self.conflict, self.hang_up][failed % 3]()
        return self.answer(200, {"id": user, "name": f"User {user}", "color": COLOR})

    def overloaded(self):
        self.answer(503, {"error": "overloaded"})

    def conflict(self):
        self.answer(409, {"error": "conflict"})

    def hang_up(self):
        self.close_connection = True

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

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
    print(f"users: listening on port {PORT}", flush=True)
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
