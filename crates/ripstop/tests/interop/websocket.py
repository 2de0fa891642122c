"""WebSocket messages of every kind between a server and a client that are both of the `websockets` library.

    websocket.py serve PORT          says "serving"
    websocket.py client HOST:PORT    plays every case and says "ok CASE" or "failed CASE: why"
"""
import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

PATIENCE = 20


async def answer(socket):
    path = socket.request.path
    if path == "/closes":
        await socket.close(4001, "enough")
        return
    if path == "/drops":
        socket.transport.abort()
        return
    if path == "/speaks":
        for n in range(5):
            await socket.send(f"message {n}")
        await socket.wait_closed()
        return
    if path == "/pings":
        await (await socket.ping(b"are you there"))
        await socket.send("you are")
    async for message in socket:
        await socket.send(message)


def refuse(connection, request):
    if request.path == "/refused":
        return connection.respond(403, "not for you\n")


def choose(connection, offered):
    return next((name for name in ["chat.v2", "chat.v1"] if name in offered), None)


async def server(port):
    options = dict(select_subprotocol=choose, max_size=None, process_request=refuse)
    async with serve(answer, "0.0.0.0", int(port), **options) as running:
        print("serving", flush=True)
        await running.serve_forever()


def to(target, path="/echo", **options):
    return connect(f"ws://{target}{path}", proxy=None, max_size=None, **options)


async def echoed(socket, message):
    await socket.send(message)
    back = await socket.recv()
    assert back == message, f"{len(back)} of {len(message)}: {back[:40]!r}"


async def text(target):
    async with to(target) as socket:
        await echoed(socket, "hello")
        await echoed(socket, "Grüße ☺ 😈")
        await echoed(socket, "")


async def binary(target):
    async with to(target) as socket:
        for size in [0, 1, 125, 126, 127, 65535, 65536, 65537]:
            await echoed(socket, os.urandom(size))


async def large(target):
    async with to(target) as socket:
        await echoed(socket, os.urandom(4 << 20))


async def uncompressed(target):
    async with to(target, compression=None) as socket:
        await echoed(socket, "a" * 100_000)


async def compressed(target):
    async with to(target, compression="deflate") as socket:
        assert socket.protocol.extensions, "no extension was agreed on"
        await echoed(socket, "a" * 100_000)


async def fragments(target):
    async with to(target) as socket:
        await socket.send(iter(["one ", "two ", "", "three"]))
        assert await socket.recv() == "one two three"


async def ping_between_fragments(target):
    async with to(target) as socket:

        async def parts():
            yield "one "
            await (await socket.ping())
            yield "two"

        await socket.send(parts())
        assert await socket.recv() == "one two"


async def ping(target):
    async with to(target) as socket:
        await (await socket.ping(b"x" * 125))


async def pinged(target):
    async with to(target, "/pings") as socket:
        assert await socket.recv() == "you are"


async def server_speaks_first(target):
    async with to(target, "/speaks") as socket:
        assert [await socket.recv() for _ in range(5)] == [f"message {n}" for n in range(5)]


async def many_in_flight(target):
    async with to(target) as socket:
        for n in range(500):
            await socket.send(f"{n}")
        assert [await socket.recv() for _ in range(500)] == [f"{n}" for n in range(500)]


async def subprotocol(target):
    async with to(target, subprotocols=["chat.v1", "other"]) as socket:
        assert socket.subprotocol == "chat.v1", socket.subprotocol


async def client_closes(target):
    socket = await to(target)
    await socket.close(3000, "done")
    assert (socket.close_code, socket.close_reason) == (3000, "done"), socket.close_code


async def server_closes(target):
    async with to(target, "/closes") as socket:
        try:
            await socket.recv()
            assert False, "a message"
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4001, "enough"), closed


async def server_is_lost(target):
    async with to(target, "/drops") as socket:
        try:
            await socket.recv()
            assert False, "a message"
        except ConnectionClosed as closed:
            assert closed.rcvd is None, closed


async def refused(target):
    try:
        async with to(target, "/refused"):
            assert False, "it was accepted"
    except InvalidStatus as error:
        assert error.response.status_code == 403, error
        assert error.response.body == b"not for you\n", error.response.body


async def idle(target):
    async with to(target) as socket:
        await asyncio.sleep(2)
        await echoed(socket, "still here")


CASES = [
    text,
    binary,
    large,
    uncompressed,
    compressed,
    fragments,
    ping_between_fragments,
    ping,
    pinged,
    server_speaks_first,
    many_in_flight,
    subprotocol,
    client_closes,
    server_closes,
    server_is_lost,
    refused,
    idle,
]


async def client(target):
    async def judged(case):
        try:
            await asyncio.wait_for(case(target), PATIENCE)
            return f"ok {case.__name__}"
        except Exception as error:  # each case is judged, whatever became of the others
            return f"failed {case.__name__}: {type(error).__name__}: {error}"

    for line in await asyncio.gather(*map(judged, CASES)):
        print(line, flush=True)


asyncio.run({"serve": server, "client": client}[sys.argv[1]](sys.argv[2]))
