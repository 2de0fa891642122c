"""A gRPC service: for every request one call over gRPC, and one over HTTP/1. The truth is in the method's name."""
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import grpc


def channel():
    return grpc.insecure_channel("rpc:80")


def call(to, method):
    return to.unary_unary("/t.T/" + method)(b"", timeout=60, wait_for_ready=True)


class Service(grpc.GenericRpcHandler):
    out = None

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda _, context: self.answer(details.method))

    def answer(self, method):
        number = method.partition("id=")[2]
        if number.isdigit():
            Service.out = Service.out or channel()
            call(Service.out, "id=%s&by=rpc" % number)
            urlopen("http://leaf/?id=%s&by=rpc" % number).read()
        return b""


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(16), handlers=[Service()])
    server.add_insecure_port("0.0.0.0:8080")
    server.start()
    server.wait_for_termination()
