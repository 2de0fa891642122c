"""An application that opens TLS itself, to a port for each request so that it can be told which; and who answers there."""
import socket
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def anonymous(side):
    """Without certificates: what matters is that nobody on the way can read it."""
    context = ssl.SSLContext(side)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    return context


class Ask(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        number = self.path.partition("id=")[2]
        if number:
            plain = socket.create_connection(("safe", 7440 + int(number)))
            with anonymous(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(plain) as sealed:
                sealed.sendall(b"hello")
                assert sealed.recv(5) == b"hello"
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def answer(port):
    context = anonymous(ssl.PROTOCOL_TLS_SERVER)
    with socket.create_server(("", port)) as listener:
        while True:
            plain, _ = listener.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as sealed:
                    sealed.sendall(sealed.recv(5))
            except OSError:
                plain.close()  # Somebody looks whether the port is open.


if sys.argv[1] == "ask":
    ThreadingHTTPServer(("", 8080), Ask).serve_forever()
for port in range(7440, 7444):
    threading.Thread(target=answer, args=(port,)).start()
