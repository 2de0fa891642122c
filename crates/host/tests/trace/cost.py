#!/usr/bin/env python3
"""What a hook costs: CPU of a server per request, with and without it, in turns, ten in flight, one call each.

A line for each program: its name, microseconds without and with the hook. Each is of the quickest round: what else the
machine does only adds to it. The preloaded object costs less than servers vary, and is measured in cost.c.
"""

import argparse
import asyncio
import os
import subprocess
import tempfile

import drive

PROGRAMS = ["node:fresh", "node:agent", "node:fetch", "python:threads", "python:streams"]


class Sidecar(drive.Sidecar):
    """Answers at once, and never answers the background, which so makes one call only."""

    async def leaf(self, reader, writer):
        try:
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
                self.judge(path, None)
                if path != "/background":
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def used(pid):
    """Microseconds of CPU, of all threads, of which none has ended between two looks."""
    total = 0
    for thread in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/schedstat" % (pid, thread)) as file:
                total += int(file.read().split()[0])
        except OSError:
            pass
    return total / 1000


async def measure(kind, name, pattern, arguments, hooks, built):
    table = drive.Table(os.path.join(built, kind + name + pattern))
    running, spent = {}, {"without": [], "with": []}
    command, _ = drive.PROGRAMS[kind][name]
    for variant in spent:
        sidecar = Sidecar(table)
        leaf = await asyncio.start_server(sidecar.leaf, "127.0.0.1", 0, backlog=256)
        interpreter = getattr(arguments, kind, None) or ("python3" if kind == "python" else kind)
        words = command.replace("BUILT", built).replace("{}", interpreter).split()
        words.append(str(leaf.sockets[0].getsockname()[1]))
        environment = drive.environment(hooks, table, [kind]) if variant == "with" else None
        process = await asyncio.create_subprocess_exec(
            *words, stdout=asyncio.subprocess.PIPE, env=environment, cwd=drive.HERE
        )
        running[variant] = sidecar, process, int(await process.stdout.readline()), Steady()
    for turn in range(arguments.rounds + 1):
        for variant, (sidecar, process, port, steady) in running.items():
            await steady.open(port)
            before = used(process.pid)
            await steady.run(sidecar, pattern, arguments.requests)
            if turn:  # The first one warms up.
                spent[variant].append((used(process.pid) - before) / arguments.requests)
    for _, process, _, _ in running.values():
        process.kill()
        await process.wait()
    return [min(each) for each in spent.values()]


def measure_preload(hooks, folder, rounds):
    """Without and with, in turns; with a connection for each call, and with one for all."""
    table, built = drive.Table(os.path.join(folder, "cost-table")), os.path.join(folder, "cost")
    subprocess.run(["cc", "-O2", "-o", built, os.path.join(drive.HERE, "cost.c")], check=True)
    variants = [None, drive.environment(hooks, table, ["c"])]
    found = [[], []]
    for _ in range(5):
        for each, environment in zip(found, variants):
            done = subprocess.run([built, str(rounds)], env=environment, check=True, capture_output=True, text=True)
            each.append([float(line) for line in done.stdout.split()])
    for name, column in (("fresh", 0), ("pooled", 1)):
        yield name, *(min(run[column] for run in each) for each in found)


def measure_kernel(path, folder, rounds):
    """The same, linked statically: with nothing in the kernel, with another workload's programs, and with its own."""
    built = os.path.join(folder, "static-cost")
    subprocess.run(["musl-gcc", "-O2", "-static", "-o", built, os.path.join(drive.HERE, "cost.c")], check=True)
    found = {variant: [] for variant in ("without", "foreign", "own")}
    for _ in range(5):
        for variant, each in found.items():
            words = [built, "follow", str(rounds)]
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            port = int(process.stdout.readline())
            kernel = drive.Kernel(path)
            if variant == "own":
                kernel.follow(port, built)
            elif variant == "foreign":
                assert kernel.ask("foreign") == ["done"]
            told, _ = process.communicate("\n")
            each.append([float(line) for line in told.split()])
            kernel.close()
    for name, column in (("fresh", 0), ("pooled", 1)):
        without, foreign, own = (min(run[column] for run in each) for each in found.values())
        yield "kernel " + name, without, own
        yield "kernel of another workload, " + name, without, foreign


class Steady:
    """Ten connections that stay: a thread of the program's that ended would take its time with it."""

    def __init__(self):
        self.connections, self.ids = [], 0

    async def open(self, port):
        while len(self.connections) < 10:
            connection = drive.Inbound()
            await connection.open(port)
            self.connections.append(connection)
            await connection.ask(0, "immediate")

    async def run(self, sidecar, pattern, requests):
        async def one(connection):
            for _ in range(requests // 10):
                self.ids += 1
                await connection.ask(self.ids, pattern)

        await asyncio.gather(*map(one, self.connections))


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--preload", required=True, help="the shared object")
    parser.add_argument("--kernel", help="a socket of somebody who loads the producer in the kernel")
    parser.add_argument("--hooks", default=drive.HOOKS)
    for kind in ("python", "node", "ruby", "java"):
        parser.add_argument("--" + kind, help="an interpreter")
    parser.add_argument("programs", nargs="*", default=PROGRAMS, help="kind:name")
    parser.add_argument("--pattern", default="immediate")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        hooks = drive.mounted(folder, arguments.hooks, arguments.preload)
        wanted = [program.split(":") for program in arguments.programs]
        drive.build({kind for kind, _ in wanted}, folder)
        for kind, name in wanted:
            figures = await measure(kind, name, arguments.pattern, arguments, hooks, folder)
            print("%s %s\t%.1f\t%.1f" % (kind, name, *figures), flush=True)
        for name, *figures in measure_preload(hooks, folder, arguments.rounds):
            print("preload %s\t%.1f\t%.1f" % (name, *figures), flush=True)
        if arguments.kernel:
            for name, *figures in measure_kernel(arguments.kernel, folder, arguments.rounds):
                print("%s\t%.1f\t%.1f" % (name, *figures), flush=True)


asyncio.run(main())
