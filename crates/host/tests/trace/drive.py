#!/usr/bin/env python3
"""Plays the sidecar: sends requests to a program, serves its calls, and says whom the table blames for each of them.

The truth travels in the URL. A call to /leaf?id=K is made while K is being served and must be attributed to K; one to
/late?id=K may come after the answer, and /background belongs to nobody. What the table says counts as the sidecar counts
it: the row's inbound connection has a request in flight now, and more bytes had been read from that connection than had
been sent when that request began. Prints a table; ends with 1 when one parent was wrong or one call went unattributed
that should not have.

"""

import argparse
import asyncio
import collections
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import mmap
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
HOOKS = os.path.abspath(os.path.join(HERE, "../../src/trace"))
SLOTS, SLOT, HEADER = 8192, 128, 64

SHARED = ["immediate", "delayed", "sequential", "fanout", "timer"]
LATE = ["after", "straggler", "lazy_poller"]
LOOP = SHARED + ["executor", "pooled"] + LATE
CALLS = SHARED + ["pool", "upload"] + LATE
JAVA = SHARED + ["executor", "modern", "after", "straggler"]
STATIC = ["immediate", "delayed", "sequential", "pooled", "reuse", "after", "fanout", "executor"]
# Kind of program -> name -> its command, where {} is the interpreter, and its patterns.
PROGRAMS = {
    "python": {
        "threads": ("{} threads.py", SHARED + ["urllib", "executor", "pooled", "reuse", "lazy_worker"] + LATE),
        "prefork": ("{} threads.py prefork", ["immediate", "pooled", "after"]),
        "forking": ("{} threads.py forking", ["immediate", "delayed"]),
        "reactor-hands-over": ("{} reactor.py hands-over", ["immediate", "pooled"]),
        "reactor-reads": ("{} reactor.py reads", ["immediate", "pooled"]),
        "gunicorn": ("{} started.py gunicorn", ["immediate", "delayed", "sequential", "executor", "processes"]),
        "streams": ("{} loop.py streams", LOOP),
        "deadlines": ("{} loop.py deadlines", LOOP),
        "per-request": ("{} loop.py per-request", LOOP),
        "per-connection": ("{} loop.py per-connection", LOOP),
    },
    "node": {
        "fresh": ("{} server.js fresh", CALLS),
        "agent": ("{} server.js agent", CALLS),
        "few": ("{} server.js few", CALLS),
        "fetch": ("{} server.js fetch", CALLS),
        "cluster": ("{} server.js cluster", ["immediate", "fanout", "after"]),
    },
    "ruby": {
        "webrick": ("{} server.rb webrick", SHARED + ["executor", "pooled", "reuse"] + LATE),
        "handed": ("{} server.rb handed", ["immediate", "pooled"]),
        "puma": ("{} server.rb puma", ["immediate", "delayed", "pooled", "executor"]),
    },
    "php": {
        "cli-server": ("python3 started.py php", ["immediate", "delayed", "sequential"]),
        "fpm": ("python3 started.py fpm", ["immediate", "delayed", "sequential", "after"]),
    },
    "java": {
        "threads": ("{} -cp BUILT Calls threads", JAVA),
        "pool": ("{} -cp BUILT Calls pool", JAVA),
    },
    "c": {
        "threads": ("BUILT/threads threads", ["immediate", "sequential", "pooled", "after"]),
        "prefork": ("BUILT/threads prefork", ["immediate", "pooled", "after"]),
        "forking": ("BUILT/threads forking", ["immediate", "after"]),
    },
    "static": {
        "threads": ("BUILT/static threads", STATIC),
        "workers": ("BUILT/static workers", STATIC),
        "prefork": ("BUILT/static prefork", STATIC),
        "forking": ("BUILT/static forking", STATIC),
        "handed": ("BUILT/static handed", ["immediate", "pooled"]),
        "poll": ("BUILT/static poll", ["immediate", "delayed"]),
        "epoll": ("BUILT/static epoll", ["immediate", "delayed"]),
    },
    "go": {
        "net-http": ("BUILT/server", SHARED + ["after", "straggler"]),
    },
}
# Programs that nothing can be put into.
IN_KERNEL = ["static", "go"]
ELSEWHERE = "another thread makes the call"
LOOPS = "the program waits for all connections together"
# Where the hooks cannot know, and so must be silent: in a program, or in one pattern of it.
SILENT = {
    "python reactor-reads": "the program's own loop reads many requests and queues them",
    "python gunicorn processes": "another process makes the call",
    "python per-connection after": "a task that is still busy with the last answer was not woken up by the next request",
    "ruby webrick fanout": ELSEWHERE,
    "ruby webrick executor": ELSEWHERE,
    "ruby webrick timer": ELSEWHERE,
    "ruby handed": LOOPS,
    "ruby puma": LOOPS,
    "php cli-server": LOOPS,
    "php fpm": "nginx has the request's connection, PHP one of FastCGI",
    "java threads fanout": ELSEWHERE,
    "java threads executor": ELSEWHERE,
    "java threads timer": ELSEWHERE,
    "java threads modern": ELSEWHERE,
    "java pool": LOOPS,
    "c forking": "nothing is followed across a fork",
    "static threads fanout": ELSEWHERE,
    "static threads executor": ELSEWHERE,
    "static workers fanout": ELSEWHERE,
    "static workers executor": ELSEWHERE,
    "static prefork fanout": ELSEWHERE,
    "static prefork executor": ELSEWHERE,
    "static forking fanout": ELSEWHERE,
    "static forking executor": ELSEWHERE,
    "static handed": "one thread reads, others work",
    "static poll": LOOPS,
    "static epoll": LOOPS,
    "go net-http": "goroutines change threads, and never wait in a read",
}


def key(local, remote):
    """A row's key, of the two ends of a TCP connection over IPv4."""
    wide = bytes(10) + b"\xff\xff"
    ports = struct.pack("<HH", local[1], remote[1])
    return wide + socket.inet_aton(local[0]) + wide + socket.inet_aton(remote[0]) + ports


class Table:
    """The table as the keeper makes it and the sidecar reads it."""

    def __init__(self, path):
        self.path = path
        with open(path, "wb") as file:
            file.write(struct.pack("<8sII", b"ripstop1", SLOTS, SLOT).ljust(HEADER, b"\0"))
            file.truncate(HEADER + SLOTS * SLOT)
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)

    def find(self, key):
        """The offset of the row with this key."""
        home = struct.unpack("<H", key[32:34])[0] * 31 + struct.unpack("<H", key[34:36])[0] * 17
        home += struct.unpack(">H", key[30:32])[0]
        for probe in range(8):
            at = HEADER + ((home + probe) & (SLOTS - 1)) * SLOT
            if self.map[at + 4] and self.map[at + 16 : at + 52] == key:
                return at
        return None

    def serves(self, key):
        """(the inbound connection's key, received), or None."""
        at = self.find(key)
        if at is None:
            return None
        row = self.map[at : at + 112]
        sequence, state = struct.unpack("<IB", row[:5])
        if sequence & 1 or state != 2:
            return None
        return row[64:100], struct.unpack("<Q", row[104:112])[0]

    def sequence(self, key):
        at = self.find(key)
        return None if at is None else self.map[at : at + 4]

    def free(self, key, sequence):
        """Frees a row that nobody has written since `sequence` was read: the pair of addresses may be in use again."""
        at = self.find(key)
        if at is not None and self.map[at : at + 4] == sequence:
            self.map[at + 4] = 0

    def taken(self):
        return sum(1 for slot in range(SLOTS) if self.map[HEADER + slot * SLOT + 4])


class Kernel:
    """The producer in the kernel, of which the test has the maps: a question and an answer a line."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r")

    def ask(self, *words):
        self.socket.sendall((" ".join(words) + "\n").encode())
        return self.lines.readline().split()

    def follow(self, port, executable):
        assert self.ask("follow", str(port), executable) == ["done"]

    def close(self):
        """Takes out of the kernel again what was loaded."""
        self.ask("end")
        self.socket.close()

    def serves(self, key):
        words = self.sequence(key)
        return (bytes.fromhex(words[0]), int(words[1])) if words else None

    def sequence(self, key):
        """What it says of a connection, as it is asked to forget just that."""
        return self.ask("cause", key.hex())

    def free(self, key, said):
        if said:
            self.ask("forget", key.hex(), *said)


class Inbound:
    """A sidecar's connection to the program: one request at a time."""

    def __init__(self):
        self.sent = 0
        self.start = 0
        self.serving = None

    async def open(self, port):
        self.sent, self.over = 0, False
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        name = self.writer.get_extra_info
        self.key = key(name("peername"), name("sockname"))

    async def ask(self, id, pattern):
        self.start, self.serving = self.sent, str(id)
        body = b"x" * 10 if id % 3 == 0 else b""
        head = "%s /work?id=%d&pattern=%s HTTP/1.1\r\nHost: app\r\n" % ("POST" if body else "GET", id, pattern)
        if body:
            head += "Content-Length: %d\r\n" % len(body)
        self.write(head.encode() + b"\r\n")
        if body:
            if id % 2:
                await asyncio.sleep(0.002)
            self.write(body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        if b"chunked" in head:
            await self.reader.readuntil(b"0\r\n\r\n")
        else:
            await self.reader.readexactly(2)
        self.serving = None
        self.over = b"connection: close" in head.lower()
        return head

    def write(self, data):
        self.sent += len(data)
        self.writer.write(data)


class Cell:
    def __init__(self):
        self.calls = self.attributed = self.wrong = self.late = 0


class Sidecar:
    def __init__(self, table):
        self.table = table
        self.inbound = {}
        self.cell = Cell()
        self.seen = collections.Counter()
        self.ids = 0

    async def leaf(self, reader, writer):
        mine = key(writer.get_extra_info("peername"), writer.get_extra_info("sockname"))
        sequence = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                sequence = self.table.sequence(mine)
                self.judge(head.split()[1].decode(), self.parent(mine))
                for line in head.decode().split("\r\n"):
                    if line.lower().startswith("content-length:"):
                        await reader.readexactly(int(line.split(":")[1]))
                if b"transfer-encoding: chunked" in head.lower():
                    await reader.readuntil(b"0\r\n\r\n")
                await asyncio.sleep(random.random() * 0.004)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                if b"connection: close" in head.lower():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.table.free(mine, sequence)
            writer.close()

    def parent(self, outbound):
        """The sidecar's rule."""
        row = self.table.serves(outbound)
        inbound = row and self.inbound.get(row[0])
        if inbound and inbound.serving is not None and row[1] > inbound.start:
            assert row[1] <= inbound.sent, "more was read than was sent"
            return inbound.serving
        return None

    def judge(self, path, parent):
        path = urllib.parse.urlsplit(path)
        id = dict(urllib.parse.parse_qsl(path.query)).get("id")
        self.cell.wrong += parent not in (None, id)
        if path.path == "/leaf":
            self.cell.calls += 1
            self.cell.attributed += parent == id
            self.seen[id] += 1
        else:
            self.cell.late += 1

    async def run(self, port, pattern, connections, requests):
        """One cell of the table."""
        self.cell = cell = Cell()
        opened = [Inbound() for _ in range(connections)]

        async def one(inbound):
            await inbound.open(port)
            self.inbound[inbound.key] = inbound
            for _ in range(max(2, requests // connections)):
                self.ids += 1
                id = self.ids
                if inbound.over:
                    del self.inbound[inbound.key]
                    inbound.writer.close()
                    await inbound.open(port)
                    self.inbound[inbound.key] = inbound
                answer = await asyncio.wait_for(inbound.ask(id, pattern), 60)
                if pattern not in ("straggler",):
                    assert self.seen[str(id)], "port %d, %s: request %d made no call: %r" % (port, pattern, id, answer)

        await asyncio.gather(*map(one, opened))
        await asyncio.sleep(0.03)
        for inbound in opened:
            del self.inbound[inbound.key]
            inbound.writer.close()
        return cell


def build(kinds, folder):
    """Compiles what needs it."""
    here = lambda name: os.path.join(HERE, name)
    commands = {
        "c": ["cc", "-O2", "-pthread", "-o", os.path.join(folder, "threads"), here("threads.c")],
        "static": ["musl-gcc", "-O2", "-static", "-o", os.path.join(folder, "static"), here("threads.c")],
        "go": ["go", "build", "-o", os.path.join(folder, "server"), here("server.go")],
        "java": ["javac", "-d", folder, here("Calls.java")],
    }
    environment = dict(os.environ, CGO_ENABLED="0")
    for kind in kinds:
        if kind in commands:
            subprocess.run(commands[kind], check=True, env=environment)


def mounted(folder, hooks, preload):
    """A folder as the keeper fills it."""
    place = os.path.join(folder, "hooks")
    os.makedirs(os.path.join(place, "python"))
    shutil.copy(os.path.join(hooks, "node.js"), place)
    shutil.copy(os.path.join(hooks, "sitecustomize.py"), os.path.join(place, "python"))
    if preload:
        shutil.copy(preload, os.path.join(place, "preload.so"))
    return place


def environment(hooks, table, kinds):
    """What the keeper sets, for hooks of these kinds; those for other languages than the two are one."""
    found = dict(os.environ, RIPSTOP_TRACE=table.path)
    preload = os.path.join(hooks, "preload.so")
    for kind in kinds:
        if kind == "node":
            found["NODE_OPTIONS"] = "--require=" + os.path.join(hooks, "node.js")
        elif kind == "python":
            found["PYTHONPATH"] = os.path.join(hooks, "python")
        elif os.path.exists(preload):
            found["LD_PRELOAD"] = preload
    return found


async def program(name, command, patterns, arguments, hooks, files, table):
    """Starts a program and runs its cells. Gives lines to print, and how many cells are not as they should be."""
    sidecar = Sidecar(table)
    leaf = await asyncio.start_server(sidecar.leaf, "127.0.0.1", 0, backlog=256)
    command = command + [str(leaf.sockets[0].getsockname()[1])]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env=environment(hooks, files, PROGRAMS), cwd=HERE
    )
    lines, bad = [], 0
    try:
        port = int(await asyncio.wait_for(process.stdout.readline(), 60))
        if isinstance(table, Kernel):
            table.follow(port, command[0])
            # The first requests show what the program is.
            await sidecar.run(port, "immediate", 4, 12)
        for pattern in patterns:
            why = SILENT.get(name) or SILENT.get(name + " " + pattern)
            if name.startswith("static") and table is files:
                why = "the kernel is not asked"
            line = "%-26s %-12s" % (name, pattern)
            for connections, requests in ((1, arguments.requests), (50, 12 * arguments.requests)):
                try:
                    cell = await sidecar.run(port, pattern, connections, requests)
                except Exception as error:
                    raise RuntimeError(name) from error
                share = 100.0 * cell.attributed / cell.calls if cell.calls else 100.0
                shown = "%5.1f %% of %4d" % (share, cell.calls) if cell.calls else "              -"
                line += "  %s, %4d others, %3d wrong" % (shown, cell.late, cell.wrong)
                bad += cell.wrong > 0 or (share < 100 and not why)
            lines.append(line + ("  (%s)" % why if why else ""))
    finally:
        process.terminate()
        await process.wait()
        leaf.close()
    return lines, bad


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hooks", default=HOOKS, help="the folder of their sources")
    parser.add_argument("--preload", help="the shared object; without it programs in Ruby, Java and C go without")
    for kind in ("python", "node", "ruby", "java"):
        parser.add_argument("--" + kind, action="append", help="an interpreter, as often as there are any")
    parser.add_argument("--kernel", help="a socket of somebody who has loaded the producer in the kernel")
    parser.add_argument("--requests", type=int, default=12, help="per cell; twelve times as many at 50 in flight")
    parser.add_argument("--pattern", action="append", help="only these")
    parser.add_argument("--parallel", type=int, default=1, help="programs at a time")
    parser.add_argument("programs", nargs="*", help="only these kinds, or kind:name")
    arguments = parser.parse_args()
    turn = asyncio.Semaphore(arguments.parallel)

    async def one(kind, *what):
        async with turn:
            # As in a workload: its own.
            table = Table(os.path.join(folder, "table%d" % len(tables)))
            tables.append(table)
            where = Kernel(arguments.kernel) if kind in IN_KERNEL and arguments.kernel else table
            return await program(*what, arguments, hooks, table, where)

    def wanted(kind, name):
        return not arguments.programs or kind in arguments.programs or kind + ":" + name in arguments.programs

    chosen = [(kind, name) for kind, programs in PROGRAMS.items() for name in programs if wanted(kind, name)]
    with tempfile.TemporaryDirectory() as folder:
        tables, running = [], []
        hooks = mounted(folder, arguments.hooks, arguments.preload)
        build({kind for kind, _ in chosen}, folder)
        for kind, name in chosen:
            command, patterns = PROGRAMS[kind][name]
            default = ["python3" if kind == "python" else kind]
            for interpreter in getattr(arguments, kind, None) or default:
                words = command.replace("BUILT", folder).replace("{}", interpreter).split()
                patterns = [p for p in patterns if not arguments.pattern or p in arguments.pattern]
                running.append(asyncio.ensure_future(one(kind, kind + " " + name, words, patterns)))
        print("%-39s  %-40s  %s" % ("", "1 in flight", "50 in flight"))
        failed = 0
        for task in running:
            lines, bad = await task
            failed += bad
            print("\n".join(lines), flush=True)
        await asyncio.sleep(0.1)
        taken = sum(table.taken() for table in tables)
        print("%d cells are not as they should be, %d rows left behind" % (failed, taken))
        return 1 if failed or taken else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
