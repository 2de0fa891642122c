"""What Python makes of a request, as JSON: `python3 app.py PORT`."""
import json
import posixpath
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def body(self):
        if self.headers.get("transfer-encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def answer(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        told = json.dumps({
            "method": self.command,
            "target": self.path,
            "read": posixpath.normpath(path.replace("//", "/")),
            "host": self.headers["host"],
            "seen": self.headers["x-seen"],
            "body": self.body().decode("latin1"),
        }).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(told)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(told)

    do_GET = do_POST = do_PUT = do_OPTIONS = do_HEAD = do_DELETE = answer


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("serving", flush=True)
server.serve_forever()
