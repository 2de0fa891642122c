"""Calls `leaf`, `gap` and `ruby`, one after the other, for every request: a thread per connection, the standard library only."""
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen


class Middle(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        number = parse_qs(urlsplit(self.path).query).get("id", [""])[0]
        if number:
            urlopen(f"http://leaf/?id={number}&by=middle").read()
            urlopen(f"http://gap/?id={number}").read()
            urlopen(f"http://ruby/?id={number}").read()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("", 8080), Middle).serve_forever()
