"""What a program must not notice of its hook: each check runs a small program with and without it."""

import argparse
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

from drive import HERE, HOOKS, Table, mounted

SETTINGS = ("PYTHONPATH", "NODE_OPTIONS", "LD_PRELOAD", "RIPSTOP_TRACE")


class Programs(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.table = Table(os.path.join(self.folder.name, "table"))

    def write(self, name, text):
        path = os.path.join(self.folder.name, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        return path

    def run_with(self, command, **environment):
        """Exit code, output and errors of a program."""
        clean = {k: v for k, v in os.environ.items() if k not in SETTINGS}
        done = subprocess.run(
            command, env={**clean, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout, done.stderr

    def leaf(self, calls):
        """A server on loopback that keeps what it reads; its port."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def serve():
            while True:
                try:
                    conn, peer = listener.accept()
                except OSError:
                    return
                with conn:
                    conn.recv(65536)
                    calls.append(peer)
                    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()[1]

    def bad_tables(self):
        """Files that are not the table, each of which the hook must turn away."""
        yield "missing", os.path.join(self.folder.name, "missing")
        head = struct.pack("<8sII", b"ripstop1", 8192, 128).ljust(64, b"\0")
        for name, content in {
            "empty": b"",
            "short": head + bytes(1000),
            "magic": b"ripstop2" + head[8:] + bytes(8192 * 128),
            "slots": struct.pack("<8sII", b"ripstop1", 8191, 128).ljust(64, b"\0") + bytes(8192 * 128),
            "size": struct.pack("<8sII", b"ripstop1", 8192, 64).ljust(64, b"\0") + bytes(8192 * 128),
        }.items():
            path = os.path.join(self.folder.name, name)
            with open(path, "wb") as file:
                file.write(content)
            yield name, path


class Python(Programs):
    def both(self, code, *options, path=(), python=sys.executable):
        """What a program says without the hook; fails when it says something else with it."""
        command = [python, *options, "-c", code]
        without = self.run_with(command, **({"PYTHONPATH": os.pathsep.join(path)} if path else {}))
        on = os.pathsep.join([HOOKS, *path])
        self.assertEqual(self.run_with(command, PYTHONPATH=on, RIPSTOP_TRACE=self.table.path), without)
        return without

    def test_a_table_that_is_not_one_turns_the_hook_off(self):
        code = "import socket; print(socket.socket.recv.__qualname__, socket.socket.send is __import__('_socket').socket.send)"
        without = self.run_with([sys.executable, "-c", code])
        self.assertIn("True", without[1])
        for name, path in self.bad_tables():
            with self.subTest(name):
                on = self.run_with([sys.executable, "-c", code], PYTHONPATH=HOOKS, RIPSTOP_TRACE=path)
                self.assertEqual(on, without)
        self.assertEqual(self.run_with([sys.executable, "-c", code], PYTHONPATH=HOOKS), without)

    def test_the_users_own_sitecustomize_runs(self):
        own = os.path.dirname(self.write("own/sitecustomize.py", "import sys; print('own', __file__ == __spec__.origin)"))
        code = "import sitecustomize, sys; print(sitecustomize.__file__, sys.path)"
        self.assertIn("own True", self.both(code, path=[own])[1])

    def test_the_users_own_sitecustomize_fails_as_ever(self):
        for error in ("raise ValueError('own')", "import no_such_module"):
            own = os.path.dirname(self.write("own/sitecustomize.py", error))
            with self.subTest(error):
                self.both("import sys; print('sitecustomize' in sys.modules)", path=[own])

    def test_sys_path_is_what_it_would_be(self):
        for options in ((), ("-S",), ("-E",), ("-I",)):
            with self.subTest(options):
                # Without site nobody takes the folder out again.
                self.both("import sys; print([p for p in sys.path if %r not in p])" % HOOKS, *options)

    def test_sockets_behave(self):
        code = """
import os, pickle, socket, threading
class Own(socket.socket):
    __slots__ = ("mine",)
    def recv(self, *args): return b"own:" + super().recv(*args)
a, b = socket.socketpair()
a.sendall(b"x"); print(b.recv(1, socket.MSG_PEEK), b.recv(1))
listener = socket.create_server(("127.0.0.1", 0))
client = Own(); client.mine = 1; client.connect(listener.getsockname())
server, peer = listener.accept()
print(type(server), peer == client.getsockname(), repr(type(client)))
server.sendall(b"hello"); print(client.recv(5))
client.sendmsg(iter([b"GET", b" /"])); print(server.recv(5))
into = bytearray(4); client.send(b"abcd"); print(server.recv_into(into, nbytes=2, flags=0), bytes(into))
print(server.makefile("rb").read(2))
for call in (lambda: pickle.dumps(server), lambda: client.send("text"), lambda: client.send(), lambda: client.connect(("127.0.0.1",))):
    try: call()
    except Exception as error: print(type(error).__name__)
copy = server.dup(); server.close(); client.sendall(b"GET"); print(copy.recv(3), server.fileno())
child = os.fork()
if child == 0:
    client.close(); os._exit(0)
os.waitpid(child, 0); client.sendall(b"GET"); print(copy.recv(3))
client.detach()
try: socket.create_connection(("127.0.0.1", 1), timeout=5)
except OSError as error: print(type(error).__name__)
print(threading.Thread.start.__name__, socket.socket.accept.__doc__[:10])
"""
        self.assertIn("own:hello", self.both(code)[1])

    def test_asyncio_behaves(self):
        code = """
import asyncio, contextvars, inspect
async def main():
    var = contextvars.ContextVar("var", default=0)
    async def sets():
        var.set(1); return var.get()
    print(await asyncio.wait_for(sets(), 5), var.get(), await asyncio.to_thread(var.get))
    try: await asyncio.wait_for(asyncio.sleep(10), 0.01)
    except asyncio.TimeoutError: print("timeout")
    print(inspect.iscoroutinefunction(asyncio.wait_for), asyncio.wait_for.__module__)
asyncio.run(main())
"""
        self.assertIn("timeout", self.both(code)[1])

    def test_threads_keep_their_own_context(self):
        code = """
import contextvars, threading, queue
from concurrent.futures import ThreadPoolExecutor
var = contextvars.ContextVar("var", default="unset"); var.set("main")
seen = queue.Queue()
thread = threading.Thread(target=lambda: seen.put(var.get())); thread.start(); thread.join()
print(seen.get())
with ThreadPoolExecutor(1) as pool:
    print(pool.submit(var.get).result(), pool.submit(lambda: var.set(1) and var.get()).result())
    try: pool.submit(lambda: 1 / 0).result()
    except ZeroDivisionError: print("raised")
"""
        self.assertIn("raised", self.both(code)[1])

    def test_what_is_not_http_gets_no_row(self):
        calls = []
        port = self.leaf(calls)
        for first, rows in ((b"\x16\x03\x01\x00", 0), (b"PRI * HTTP/2.0\r\n\r\n", 0), (b"*1\r\n", 0), (b"GET / HTTP/1.1\r\n", 1)):
            code = (
                "import os, socket; s = socket.create_connection(('127.0.0.1', %d)); s.sendall(%r); s.recv(9); os._exit(0)"
                % (port, first)
            )
            before = self.table.taken()
            self.run_with([sys.executable, "-c", code], PYTHONPATH=HOOKS, RIPSTOP_TRACE=self.table.path)
            self.assertEqual(self.table.taken() - before, rows, first)


class Node(Programs):
    HOOK = "--require=" + os.path.join(HOOKS, "node.js")

    def both(self, code, options="", **environment):
        command = ["node", "-e", code]
        without = self.run_with(command, NODE_OPTIONS=options, **environment)
        on = self.run_with(command, NODE_OPTIONS=(options + " " + self.HOOK), RIPSTOP_TRACE=self.table.path, **environment)
        self.assertEqual(on, without)
        return without

    def test_a_table_that_is_not_one_turns_the_hook_off(self):
        code = "console.log(Object.keys(require('http').Server.prototype), Object.hasOwn(require('http').Server.prototype, 'emit'))"
        without = self.run_with(["node", "-e", code])
        self.assertIn("false", without[1])
        for name, path in self.bad_tables():
            with self.subTest(name):
                self.assertEqual(self.run_with(["node", "-e", code], NODE_OPTIONS=self.HOOK, RIPSTOP_TRACE=path), without)
        self.assertEqual(self.run_with(["node", "-e", code], NODE_OPTIONS=self.HOOK), without)

    def test_other_options_and_preloads_stay(self):
        other = self.write("other.js", "console.log('other')")
        code = "console.log(Object.keys(require.cache).length, process.execArgv, process.memoryUsage().heapTotal > 0)"
        self.assertIn("other", self.both(code, "--require=%s --max-old-space-size=200" % other)[1])

    def test_nothing_keeps_the_event_loop_alive(self):
        self.assertEqual(self.both("console.log('done')"), (0, "done\n", ""))
        self.both("console.log(process._getActiveHandles().length)")

    def test_nothing_is_enumerable_or_renamed(self):
        self.both(
            """
const http = require('http'), net = require('net');
for (const prototype of [http.Server.prototype, http.IncomingMessage.prototype, http.Agent.prototype, net.Socket.prototype])
  console.log(Object.keys(prototype).join());
console.log(http.Agent.prototype.addRequest.name, http.Server.prototype.emit.name, net.Socket.prototype._destroy.name);
"""
        )

    def test_http_behaves(self):
        code = """
const http = require('http');
const { AsyncLocalStorage } = require('async_hooks');
const own = new AsyncLocalStorage();
const server = http.createServer((request, response) => {
  own.run('own', () => request.on('data', () => {}).on('end', () => response.end(String(own.getStore()))));
});
server.on('error', () => {});
server.listen(0, '127.0.0.1', async () => {
  const url = 'http://127.0.0.1:' + server.address().port;
  console.log(await (await fetch(url, { method: 'POST', body: 'x' })).text());
  const request = http.get(url, { headers: ['Host', 'x'] }, (response) => {
    console.log(response.statusCode, request.listenerCount('socket'), response.socket.listenerCount('close'));
    response.on('data', (data) => console.log(String(data))).on('end', () => server.close(() => console.log('closed')));
    server.closeIdleConnections();
  });
  server.keepAliveTimeout = 1;
  http.get({ host: '127.0.0.1', port: 1 }).on('error', (error) => console.log(error.code));
  try { server.emit('error', new Error('x')); http.createServer().emit('error', new Error('unhandled')); } catch (error) { console.log(error.message); }
});
"""
        self.assertIn("closed", self.both(code)[1])

    def test_worker_threads_have_the_hook_too(self):
        calls = []
        port = self.leaf(calls)
        code = (
            "new (require('worker_threads').Worker)(\"require('http').get('http://127.0.0.1:%d', (r) => r.resume().on('end', () => process.kill(process.pid, 'SIGKILL')))\", { eval: true })"
            % port
        )
        self.run_with(["node", "-e", code], NODE_OPTIONS=self.HOOK, RIPSTOP_TRACE=self.table.path)
        self.assertEqual((len(calls), self.table.taken()), (1, 1))

    def test_tls_gets_no_row(self):
        calls = []
        port = self.leaf(calls)
        code = "require('https').get('https://127.0.0.1:%d').on('error', () => process.kill(process.pid, 'SIGKILL'))" % port
        self.run_with(["node", "-e", code], NODE_OPTIONS=self.HOOK, RIPSTOP_TRACE=self.table.path)
        self.assertEqual((len(calls), self.table.taken()), (1, 0))


class Preload(Programs):
    def build(self, name, *options, compiler="cc"):
        built = os.path.join(self.folder.name, name[:-2])
        options = ["-w", *options]
        subprocess.run([compiler, "-O2", *options, "-o", built, os.path.join(HERE, name)], check=True)
        return built

    def both(self, *command, **environment):
        without = self.run_with(command, **environment)
        self.assertEqual(without[0], 0, without)
        own = environment.pop("LD_PRELOAD", None)
        preload = own + ":" + PRELOAD if own else PRELOAD
        for name, path in [("good", self.table.path), *self.bad_tables()]:
            with self.subTest(table=name):
                on = self.run_with(command, LD_PRELOAD=preload, RIPSTOP_TRACE=path, **environment)
                self.assertEqual(on, without)
        self.assertEqual(self.run_with(command, LD_PRELOAD=preload, **environment), without)
        self.assertEqual(self.table.taken(), 0)
        return without

    def test_calls_give_what_they_gave(self):
        output = self.both(self.build("calls.c", "-pthread"))[1]
        self.assertIn("child 256", output)
        self.assertIn("cancelled 1", output)

    def test_calls_that_are_checked_give_what_they_gave(self):
        self.both(self.build("calls.c", "-pthread", "-D_FORTIFY_SOURCE=2"))

    def test_a_program_of_another_libc(self):
        self.both(self.build("calls.c", compiler="musl-gcc"))

    def test_a_static_program(self):
        self.both(self.build("calls.c", "-static", "-pthread"))

    def test_what_a_user_preloads_stays(self):
        before = self.build("before.c", "-shared", "-fPIC")
        output = self.both(self.build("calls.c", "-pthread"), LD_PRELOAD=before)[1]
        self.assertIn("a connect", output)

    def test_ordinary_programs(self):
        self.both("sh", "-c", "ls / | sort | head -3; (echo in a subshell) & wait; echo $((1 + 2))")
        self.both("ruby", "-e", "puts `echo spawned`; system('true'); p Process.wait2(fork { exit 3 })[1].exitstatus")

    def test_runtimes_with_a_hook_of_their_own_get_no_rows(self):
        calls = []
        port = self.leaf(calls)
        call = "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%d').read(); os._exit(0)" % port
        for preload in ("", PRELOAD):
            self.run_with([sys.executable, "-c", call], LD_PRELOAD=preload, RIPSTOP_TRACE=self.table.path)
        self.assertEqual((len(calls), self.table.taken()), (2, 0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--preload", required=True, help="the shared object")
    arguments, rest = parser.parse_known_args()
    PRELOAD = os.path.abspath(arguments.preload)
    unittest.main(argv=sys.argv[:1] + rest)
