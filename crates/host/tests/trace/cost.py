#!/usr/bin/env python3
"""What a hook costs: CPU of a server per request, with and without it, in turns, ten in flight, one call each.

The median of the rounds. A preload stands in the place of the Node hook, for comparison.
"""

import argparse
import asyncio
import os
import statistics
import tempfile

import drive


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
    """Microseconds of CPU, of all threads."""
    total = 0
    for thread in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/schedstat" % (pid, thread)) as file:
            total += int(file.read().split()[0])
    return total / 1000


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--preload", action="append", default=[])
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    *command, pattern = arguments.command
    command[1] = os.path.join(drive.HERE, command[1])
    hooks = os.path.abspath(os.path.join(drive.HERE, "../../src/trace"))
    node = command[1].endswith(".js")
    with tempfile.TemporaryDirectory() as folder:
        table = drive.Table(os.path.join(folder, "table"))
        on = {"NODE_OPTIONS": "--require=%s/node.js" % hooks} if node else {"PYTHONPATH": hooks}
        variants = {"without": {}, "with": dict(on, RIPSTOP_TRACE=table.path)}
        for preload in arguments.preload:
            variants[os.path.basename(preload)] = {"NODE_OPTIONS": "--require=" + preload, "RIPSTOP_TRACE": table.path}
        running, spent = {}, {name: [] for name in variants}
        for name, environment in variants.items():
            sidecar = Sidecar(table)
            leaf = await asyncio.start_server(sidecar.leaf, "127.0.0.1", 0, backlog=256)
            port = str(leaf.sockets[0].getsockname()[1])
            environment = dict(os.environ, **environment)
            process = await asyncio.create_subprocess_exec(
                *command, port, stdout=asyncio.subprocess.PIPE, env=environment
            )
            running[name] = sidecar, process, int(await process.stdout.readline())
        for turn in range(arguments.rounds + 1):
            for name, (sidecar, process, port) in running.items():
                before = used(process.pid)
                await sidecar.run(port, pattern, 10, arguments.requests)
                if turn:  # The first one warms up.
                    spent[name].append((used(process.pid) - before) / arguments.requests)
        quick = {name: statistics.quantiles(each)[0] for name, each in spent.items()}
        for name, each in quick.items():
            print("%-16s %6.1f us per request, x %.2f" % (name, each, each / quick["without"]))
        for _, process, _ in running.values():
            process.kill()
            await process.wait()


asyncio.run(main())
