"""Calls `leaf`, `gap` and `ruby`, one after the other, for every request: a thread per connection, the standard library only."""
import socket
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Middle(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        number = parse_qs(urlsplit(self.path).query).get("id", [""])[0]
        if number:
            with ExitStack() as open_until_all_are_done:
                for call in (f"leaf/?id={number}&by=middle", f"gap/?id={number}", f"ruby/?id={number}"):
                    connection = open_until_all_are_done.enter_context(socket.socket())
                    fetch(connection, *call.split("/"), 20000 + int(number))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def fetch(connection, host, query, port):
    """All calls of a request leave from one local port, as they do by chance where a program makes many."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    connection.bind(("", port))
    connection.connect((host, 80))
    connection.sendall(f"GET /{query} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):  # No answer has a body.
        head += connection.recv(65536) or exit("closed")


ThreadingHTTPServer(("", 8080), Middle).serve_forever()
