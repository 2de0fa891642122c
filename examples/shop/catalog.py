"""The catalog, in two versions: GET /products, GET /products/ID. Version 2 also has descriptions.

What is in stock it asks the inventory, which speaks a line protocol of its own over TCP.
"""

import json
import os
import re
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "8080"))
VERSION = os.environ.get("VERSION", "v1")
HOST, _, INVENTORY_PORT = os.environ.get("INVENTORY", "inventory:7000").rpartition(":")
PRODUCTS = {1: "Kettle", 2: "Lantern", 3: "Rope", 4: "Tarpaulin", 5: "Whistle"}


def stock(product):
    """How many there are, or None when the inventory does not say."""
    try:
        with socket.create_connection((HOST, int(INVENTORY_PORT)), timeout=5) as connection:
            lines = connection.makefile("rw", encoding="ascii", newline="\r\n")
            if not lines.readline().startswith("220 "):  # the server speaks first
                return None
            lines.write(f"STOCK {product}\r\n")
            lines.flush()
            code, _, count = lines.readline().strip().partition(" ")
            return int(count) if code == "250" else None
    except (OSError, ValueError):
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        if self.path == "/healthz":
            return self.answer(200, {"ok": True})
        if self.path == "/products":
            products = [{"id": number, "name": name} for number, name in PRODUCTS.items()]
            return self.answer(200, {"version": VERSION, "products": products})
        match = re.fullmatch(r"/products/([0-9]{1,6})", self.path)
        number = int(match[1]) if match else None
        if number not in PRODUCTS:
            return self.answer(404, {"error": "no such product"})
        product = {"id": number, "name": PRODUCTS[number], "version": VERSION, "stock": stock(number)}
        if VERSION != "v1":
            product["description"] = f"A {PRODUCTS[number].lower()} that lasts."
        return self.answer(200, product)

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
    print(f"catalog {VERSION}: listening on port {PORT}", flush=True)
    server.serve_forever()
    server.server_close()


if __name__ == "__main__":
    main()
