"""asyncio servers: streams, streams with deadlines, a protocol that makes a task per request, one that makes a task per
connection, and executors. `loop.py KIND LEAF_PORT` prints its own port."""

import asyncio
import http.client
import queue
import random
import sys
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

KIND, LEAF = sys.argv[1], int(sys.argv[2])
POOL = ThreadPoolExecutor(8)
IDLE = []  # Keep-alive connections that the requests share.
THREADS_IDLE = queue.LifoQueue()
TASKS = set()
STARTED = set()


def spawn(coroutine):
    task = asyncio.ensure_future(coroutine)
    TASKS.add(task)
    task.add_done_callback(TASKS.discard)
    return task


async def call(path, keep=False):
    reader, writer = IDLE.pop() if keep and IDLE else await asyncio.open_connection("127.0.0.1", LEAF)
    writer.write(b"GET %s HTTP/1.1\r\nHost: leaf\r\n\r\n" % path.encode())
    await writer.drain()
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(2)
    if keep:
        IDLE.append((reader, writer))
    else:
        writer.close()


def blocking(path):
    try:
        conn = THREADS_IDLE.get_nowait()
    except queue.Empty:
        conn = http.client.HTTPConnection("127.0.0.1", LEAF)
    conn.request("GET", path)
    conn.getresponse().read()
    THREADS_IDLE.put(conn)


async def background(path):
    while True:
        await call(path, keep=True)
        await asyncio.sleep(0.005)


async def pause():
    await asyncio.sleep(random.random() * 0.01)


async def late(id):
    for _ in range(3):
        await pause()
        await call("/late?id=" + id, keep=True)


class Work:
    """What a request does, by the name of its pattern; gives what is left to do after the answer."""

    async def immediate(self, id):
        await call("/leaf?id=" + id)

    async def delayed(self, id):
        await pause()
        await call("/leaf?id=" + id)

    async def sequential(self, id):
        for _ in range(3):
            await call("/leaf?id=" + id, keep=True)
            await pause()

    async def fanout(self, id):
        await asyncio.gather(*[call("/leaf?id=" + id, keep=True) for _ in range(3)])

    async def executor(self, id):
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            loop.run_in_executor(POOL, blocking, "/leaf?id=" + id),
            loop.run_in_executor(None, blocking, "/leaf?id=" + id),
        )

    async def timer(self, id):
        done = asyncio.get_running_loop().create_future()

        def fire():
            spawn(call("/leaf?id=" + id)).add_done_callback(done.set_result)

        asyncio.get_running_loop().call_later(random.random() * 0.01, fire)
        await done

    async def pooled(self, id):
        await pause()
        await call("/leaf?id=" + id, keep=True)

    async def after(self, id):
        await call("/leaf?id=" + id, keep=True)
        return late(id)

    async def straggler(self, id):
        spawn(late(id))
        loop = asyncio.get_running_loop()
        loop.call_later(random.random() * 0.02, lambda: spawn(call("/late?id=" + id)))
        POOL.submit(blocking, "/late?id=" + id)

    async def lazy_poller(self, id):
        if "poller" not in STARTED:
            STARTED.add("poller")
            spawn(background("/late?id=" + id))
        await call("/leaf?id=" + id)


def parse(head):
    """The path's query, and how long the body is."""
    lines = head.decode().split("\r\n")
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(lines[0].split()[1]).query))
    lengths = [line.split(":")[1] for line in lines if line.lower().startswith("content-length")]
    return query, int(lengths[0]) if lengths else 0


async def respond(query, write):
    left = await getattr(Work(), query["pattern"])(query["id"])
    write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    if left is not None:
        await left


async def streams(reader, writer):
    try:
        while True:
            query, length = parse(await reader.readuntil(b"\r\n\r\n"))
            await reader.readexactly(length)
            await respond(query, writer.write)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def deadlines(reader, writer):
    try:
        while True:
            query, length = parse(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60))
            await asyncio.wait_for(reader.readexactly(length), 60)
            await asyncio.wait_for(respond(query, writer.write), 60)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


class PerRequest(asyncio.Protocol):
    """A task for each request, made where its bytes arrive: as uvicorn does."""

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if end:
            query, length = parse(head)
            if len(rest) >= length:
                self.buffer = rest[length:]
                spawn(respond(query, self.transport.write))


class PerConnection(PerRequest):
    """A task for each connection, to which the parser hands requests: as aiohttp does."""

    def connection_made(self, transport):
        super().connection_made(transport)
        self.requests, self.waiter = [], None
        self.task = spawn(self.serve())

    def data_received(self, data):
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if end:
            query, length = parse(head)
            if len(rest) >= length:
                self.buffer = rest[length:]
                self.requests.append(query)
                if self.waiter and not self.waiter.done():
                    self.waiter.set_result(None)

    def connection_lost(self, _):
        self.task.cancel()

    async def serve(self):
        while True:
            if not self.requests:
                self.waiter = asyncio.get_running_loop().create_future()
                await self.waiter
            request = respond(self.requests.pop(0), self.transport.write)
            if sys.version_info >= (3, 12):
                await asyncio.Task(request, loop=asyncio.get_running_loop(), eager_start=True)
            else:
                await asyncio.get_running_loop().create_task(request)


async def main():
    spawn(background("/background"))
    loop = asyncio.get_running_loop()
    if KIND == "streams":
        # Python 3.9 keeps no reference to the task it makes of a coroutine function, and may collect it.
        server = await asyncio.start_server(lambda *both: spawn(streams(*both)) and None, "127.0.0.1", 0, backlog=128)
    elif KIND == "deadlines":
        server = await asyncio.start_server(lambda *both: spawn(deadlines(*both)) and None, "127.0.0.1", 0, backlog=128)
    elif KIND == "per-request":
        server = await loop.create_server(PerRequest, "127.0.0.1", 0, backlog=128)
    else:
        server = await loop.create_server(PerConnection, "127.0.0.1", 0, backlog=128)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
