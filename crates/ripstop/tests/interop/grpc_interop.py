"""The gRPC interoperability test (grpc.testing.TestService): its server, and a client that plays its cases.

    grpc_interop.py serve PORT          says "serving", and "cancelled METHOD" for each call that its client gave up
    grpc_interop.py client HOST:PORT    plays every case and says "ok CASE" or "failed CASE: why"

The service and the cases are those of the public protocol (doc/interop-test-descriptions.md of gRPC). Messages are small
enough to be written by hand: fields are (number, value) with ints, bytes and lists of them.
"""
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "/grpc.testing.TestService/"
INITIAL = "x-grpc-test-echo-initial"
TRAILING = "x-grpc-test-echo-trailing-bin"
PATIENCE = 30


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(*fields):
    out = b""
    for number, value in fields:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int):
                out += varint(number << 3) + varint(one)
            else:
                out += varint(number << 3 | 2) + varint(len(one)) + one
    return out


def parse(data):
    """Field number → its values, in order."""
    fields, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            value = number()
        else:
            length = number()
            value = data[at : at + length]
            at += length
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def first(fields, number, otherwise):
    return fields.get(number, [otherwise])[0]


def payload(size):
    return message((2, bytes(size)))


def body(fields, number):
    """The length of a payload's body."""
    return len(first(parse(first(fields, number, b"")), 2, b""))


# The server.


def echo(context):
    metadata = dict(context.invocation_metadata())
    if INITIAL in metadata:
        context.send_initial_metadata([(INITIAL, metadata[INITIAL])])
    if TRAILING in metadata:
        context.set_trailing_metadata([(TRAILING, metadata[TRAILING])])


def refuse_if_asked(fields, context, done=threading.Event()):
    if 7 in fields:
        status = parse(fields[7][0])
        code = first(status, 1, 0)
        codes = {c.value[0]: c for c in grpc.StatusCode}
        if code:
            done.set()
            context.abort(codes[code], first(status, 2, b"").decode())


def watch(context, method):
    """Says when the client has given up: that it did must come through whatever is between."""
    done = threading.Event()

    def ended():
        if not done.is_set():
            print(f"cancelled {method}", flush=True)

    context.add_callback(ended)
    return done


def empty_call(_, context):
    return b""


def unary_call(request, context):
    fields = parse(request)
    echo(context)
    refuse_if_asked(fields, context)
    return message((1, payload(first(fields, 2, 0))))


def streaming_input_call(requests, context):
    done = watch(context, "StreamingInputCall")
    total = sum(body(parse(request), 1) for request in requests)
    done.set()
    return message((1, total))


def responses_to(request, context, done):
    fields = parse(request)
    refuse_if_asked(fields, context, done)
    for parameters in map(parse, fields.get(2, [])):
        time.sleep(first(parameters, 2, 0) / 1e6)
        yield message((1, payload(first(parameters, 1, 0))))


def streaming_output_call(request, context):
    yield from responses_to(request, context, threading.Event())


def full_duplex_call(requests, context):
    echo(context)
    done = watch(context, "FullDuplexCall")
    for request in requests:
        yield from responses_to(request, context, done)
    done.set()


def serve(port):
    handlers = {
        "EmptyCall": grpc.unary_unary_rpc_method_handler(empty_call),
        "UnaryCall": grpc.unary_unary_rpc_method_handler(unary_call),
        "StreamingInputCall": grpc.stream_unary_rpc_method_handler(streaming_input_call),
        "StreamingOutputCall": grpc.unary_stream_rpc_method_handler(streaming_output_call),
        "FullDuplexCall": grpc.stream_stream_rpc_method_handler(full_duplex_call),
    }
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.testing.TestService", handlers)])
    assert server.add_insecure_port(f"0.0.0.0:{port}") == int(port)
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


# The client.


class Stub:
    def __init__(self, channel):
        self.channel = channel
        self.empty = channel.unary_unary(SERVICE + "EmptyCall")
        self.unary = channel.unary_unary(SERVICE + "UnaryCall")
        self.up = channel.stream_unary(SERVICE + "StreamingInputCall")
        self.down = channel.unary_stream(SERVICE + "StreamingOutputCall")
        self.duplex = channel.stream_stream(SERVICE + "FullDuplexCall")


def same(what, expected):
    assert what == expected, f"{what!r} is not {expected!r}"


def fails(code, call, text=None):
    try:
        result = call()
        assert False, f"answered {result!r}, not {code}"
    except grpc.RpcError as error:
        same(error.code(), code)
        if text is not None:
            same(error.details(), text)


def wanting(*sizes, up=0, status=None):
    fields = [(2, [message((1, size)) for size in sizes]), (3, payload(up))]
    if status is not None:
        fields.append((7, status))
    return message(*fields)


def got(response):
    return body(parse(response), 1)


def empty_unary(stub):
    same(stub.empty(b"", timeout=PATIENCE), b"")


def large_unary(stub):
    same(got(stub.unary(message((2, 314159), (3, payload(271828))), timeout=PATIENCE)), 314159)


def client_streaming(stub):
    requests = [message((1, payload(size))) for size in [27182, 8, 1828, 45904]]
    same(first(parse(stub.up(iter(requests), timeout=PATIENCE)), 1, 0), 74922)


def server_streaming(stub):
    sizes = [31415, 9, 2653, 58979]
    same([got(one) for one in stub.down(wanting(*sizes), timeout=PATIENCE)], sizes)


class Pipe:
    """Requests that are sent one by one, when the case wants it."""

    def __init__(self):
        self.items, self.there, self.over = [], threading.Condition(), False

    def send(self, item):
        with self.there:
            self.items.append(item)
            self.there.notify()

    def close(self):
        with self.there:
            self.over = True
            self.there.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.there:
            while not self.items and not self.over:
                self.there.wait()
            if self.items:
                return self.items.pop(0)
            raise StopIteration


def ping_pong(stub):
    pipe = Pipe()
    call = stub.duplex(pipe, timeout=PATIENCE)
    for down, up in [(31415, 27182), (9, 8), (2653, 1828), (58979, 45904)]:
        pipe.send(wanting(down, up=up))
        same(got(next(call)), down)
    pipe.close()
    same(list(call), [])


def empty_stream(stub):
    same(list(stub.duplex(iter([]), timeout=PATIENCE)), [])


METADATA = [(INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab")]


def carries(call):
    same(dict(call.initial_metadata())[INITIAL], "test_initial_metadata_value")
    same(dict(call.trailing_metadata())[TRAILING], b"\xab\xab\xab")


def custom_metadata(stub):
    request = message((2, 314159), (3, payload(271828)))
    response, call = stub.unary.with_call(request, metadata=METADATA, timeout=PATIENCE)
    same(got(response), 314159)
    carries(call)
    call = stub.duplex(iter([wanting(314159, up=271828)]), metadata=METADATA, timeout=PATIENCE)
    same([got(one) for one in call], [314159])
    carries(call)


def status(code, text):
    return message((1, code), (2, text.encode()))


def status_code_and_message(stub):
    asked = status(2, "test status message")
    fails(grpc.StatusCode.UNKNOWN, lambda: stub.unary(message((7, asked)), timeout=PATIENCE), "test status message")
    call = stub.duplex(iter([wanting(status=asked)]), timeout=PATIENCE)
    fails(grpc.StatusCode.UNKNOWN, lambda: list(call), "test status message")


def special_status_message(stub):
    text = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
    asked = status(2, text)
    fails(grpc.StatusCode.UNKNOWN, lambda: stub.unary(message((7, asked)), timeout=PATIENCE), text)


def unimplemented_method(stub):
    call = stub.channel.unary_unary(SERVICE + "UnimplementedCall")
    fails(grpc.StatusCode.UNIMPLEMENTED, lambda: call(b"", timeout=PATIENCE))


def unimplemented_service(stub):
    call = stub.channel.unary_unary("/grpc.testing.UnimplementedService/UnimplementedCall")
    fails(grpc.StatusCode.UNIMPLEMENTED, lambda: call(b"", timeout=PATIENCE))


def cancel_after_begin(stub):
    pipe = Pipe()
    call = stub.up.future(pipe, timeout=PATIENCE)
    call.cancel()
    same(call.cancelled(), True)
    same(call.code(), grpc.StatusCode.CANCELLED)
    pipe.close()


def cancel_after_first_response(stub):
    pipe = Pipe()
    call = stub.duplex(pipe, timeout=PATIENCE)
    pipe.send(wanting(31415, up=27182))
    same(got(next(call)), 31415)
    call.cancel()
    fails(grpc.StatusCode.CANCELLED, lambda: next(call))
    pipe.close()


def timeout_on_sleeping_server(stub):
    pipe = Pipe()
    call = stub.duplex(pipe, timeout=0.001)
    pipe.send(message((2, message((1, 31415), (2, 3_000_000))), (3, payload(27182))))
    fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: list(call))
    pipe.close()


CASES = [
    empty_unary,
    large_unary,
    client_streaming,
    server_streaming,
    ping_pong,
    empty_stream,
    custom_metadata,
    status_code_and_message,
    special_status_message,
    unimplemented_method,
    unimplemented_service,
    cancel_after_begin,
    cancel_after_first_response,
    timeout_on_sleeping_server,
]


def client(target):
    # Nothing of the environment comes between.
    options = [("grpc.enable_http_proxy", 0)]
    failed = 0
    with grpc.insecure_channel(target, options=options) as channel:
        grpc.channel_ready_future(channel).result(timeout=PATIENCE)
        stub = Stub(channel)
        for case in CASES:
            try:
                case(stub)
                print(f"ok {case.__name__}", flush=True)
            except Exception as error:  # each case is judged, whatever became of the others
                failed += 1
                print(f"failed {case.__name__}: {type(error).__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)


{"serve": serve, "client": client}[sys.argv[1]](sys.argv[2])
