"""The sockets of a Python program in -> rows "this outbound connection serves that inbound connection" out.

Python imports a module of this name at start when its folder is on PYTHONPATH; RIPSTOP_TRACE names the table, a file
that is mapped. A context variable holds what the running code serves: an inbound connection, and how many bytes of it
had been read when that work began. The value is never changed in place, so what an old request left behind (a timer, a
thread) keeps pointing at the old request, which the sidecar recognises by the byte count.

The variable is set where bytes are picked up:
- a blocking read of an accepted socket sets it for the thread;
- a read by asyncio sets it for the protocol's callback and for each task that the bytes woke up.
It is carried into threads and executor jobs, and read when this process opens a connection, and at each write on one
that speaks HTTP/1. In doubt the row says "nobody's": a socket read by an event loop other than asyncio's, a thread that
reads several requests before it answers one, two contexts that write between two answers.

The program must not notice: modules are changed only when it imports them, no error leaves a hook, and a
sitecustomize of the user's own still runs.
"""

import os
import sys

_PYTHON = 2  # The producer, as the table numbers it.
_KEY_KNOWN, _REQUEST = 1, 2  # The states of a row; 0 is free.
_HEADER, _SLOT, _PROBES = 64, 128, 8
_UNSET = object()


class _Table:
    """The mapped file. Raises when it is not there or not of this format."""

    def __init__(self, path):
        import mmap
        import struct

        self.integer = struct.Struct("<I")
        self.row = struct.Struct("<BB10x36s12x36s4xQ")
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            magic, self.slots, size = struct.unpack("<8sII", os.read(fd, 16))
            length = _HEADER + self.slots * _SLOT
            if magic != b"ripstop1" or size != _SLOT or self.slots & (self.slots - 1) or not self.slots:
                raise ValueError("not a table of ours")
            if os.fstat(fd).st_size < length:
                raise ValueError("a short table")
            self.map = mmap.mmap(fd, length)
        finally:
            os.close(fd)

    def key(self, slot):
        """The state and the key of a row."""
        at = _HEADER + slot * _SLOT
        return self.map[at + 4], self.map[at + 16 : at + 52]

    def write(self, slot, row):
        """An odd sequence number first, so that a reader of a half-written row knows."""
        at = _HEADER + slot * _SLOT
        odd = self.integer.unpack_from(self.map, at)[0] | 1
        self.integer.pack_into(self.map, at, odd)
        self.map[at + 4 : at + 112] = row
        self.integer.pack_into(self.map, at, (odd + 1) & 0xFFFFFFFF)

    def claim(self, key, row):
        """Writes the row where its key is, or else where a row is free. Gives the slot, or None when all are taken."""
        # Local and remote port, and the end of the remote address.
        home = int.from_bytes(key[32:34], "little") * 31 + int.from_bytes(key[34:36], "little") * 17
        home += int.from_bytes(key[30:32], "big")
        slots = [(home + i) & (self.slots - 1) for i in range(_PROBES)]
        rows = [(slot,) + self.key(slot) for slot in slots]
        found = [slot for slot, state, held in rows if state and held == key]
        for slot in found or [slot for slot, state, _ in rows if not state]:
            self.write(slot, row)
            at = _HEADER + slot * _SLOT
            if self.map[at + 4 : at + 112] == row:  # Else another process took the free slot at the same time.
                return slot
        return None


class _Inbound:
    """A connection that this process accepted."""

    outbound = False

    def __init__(self, ref, key):
        self.ref = ref  # Keeps the weak reference, and so its callback, alive.
        self.key = key
        self.received = 0  # Bytes that the program read, since accept.
        self.unanswered = False  # Something was read, and nothing written since.
        self.by_loop = False  # asyncio reads it.

    def close(self):
        self.unanswered = False


class _Outbound:
    """A connection that this process opened."""

    outbound = True

    def __init__(self, ref):
        self.ref = ref
        self.http = None  # Whether it speaks HTTP/1: told by its first byte.
        self.key = None
        self.slot = None
        self.serves = _UNSET  # What the row says.
        self.answered = True  # Something was read since the last write.
        self.pid = os.getpid()

    def close(self):
        # A forked child that closes its copy does not end the connection.
        if self.slot is not None and self.pid == os.getpid():
            if _table.key(self.slot)[1] == self.key:
                _table.write(self.slot, bytes(108))
            self.slot = None


class _Waiting:
    """What a task serves while it waits for another (asyncio.wait_for before 3.12) that reads in its place."""

    def __init__(self, before):
        self.before = before
        self.after = None


_table = None
_serves = None  # The context variable: None, (inbound, received), () for "several, nobody's", or a _Waiting.
_sockets = {}  # id of a socket -> _Inbound or _Outbound; a weak reference removes the entry.


def _current():
    serves = _serves.get()
    if serves.__class__ is _Waiting:
        serves = serves.before
    return serves or None


def _pick_up(inbound, received):
    """The running code has read up to here."""
    before = _serves.get()
    if before.__class__ is _Waiting:
        before.after = (inbound, received)
        before = before.before
    if before == () or (before and before[0] is not inbound and before[0].unanswered):
        _serves.set(())  # It reads several requests before it answers one: nobody can tell which it works for.
    else:
        _serves.set((inbound, received))


def _mark(outbound, sock, first):
    """Says in the table what the write that follows serves."""
    if outbound.http is None:
        start = bytes(memoryview(first).cast("B")[:3])
        outbound.http = start[:1].isupper() and start != b"PRI"
        if outbound.http and outbound.key is None:
            outbound.key = _key(sock, sock.getsockname(), sock.getpeername())
    if not outbound.http:
        return
    serves = _current()
    if not outbound.answered and outbound.serves is not _UNSET:
        # In the middle of a request, or in a pipeline: it keeps its owner, or loses it when another one writes.
        if outbound.serves is None or (serves and serves[0] is outbound.serves[0]):
            return
        serves = None
    outbound.answered = False
    if serves is outbound.serves:
        return
    _say(outbound, serves)


def _say(outbound, serves):
    """Writes the row of a connection."""
    if serves:
        row = _table.row.pack(_REQUEST, _PYTHON, outbound.key, serves[0].key, serves[1])
    else:
        row = _table.row.pack(_KEY_KNOWN, _PYTHON, outbound.key, b"", 0)
    if outbound.slot is None or _table.key(outbound.slot)[1] != outbound.key:
        outbound.slot = _table.claim(outbound.key, row)
    else:
        _table.write(outbound.slot, row)
    outbound.serves = serves if outbound.slot is not None else _UNSET


def _opened(sock, address):
    """Says for which request a connection was opened: what that is worth for bytes that are not HTTP, the sidecar knows."""
    outbound = _sockets.get(id(sock))
    serves = _current()
    if outbound is not None and serves:
        outbound.key = _key(sock, sock.getsockname(), address or sock.getpeername())
        _say(outbound, serves)


def _key(sock, local, remote):
    """Addresses and ports as the table has them."""
    import socket

    def address(name):
        if sock.family == socket.AF_INET:
            return bytes(10) + b"\xff\xff" + socket.inet_aton(name[0])
        return socket.inet_pton(socket.AF_INET6, name[0].split("%")[0])

    ports = local[1].to_bytes(2, "little") + remote[1].to_bytes(2, "little")
    return address(local) + address(remote) + ports


def _follow(sock, make):
    """Starts to follow a socket; `make` gets the weak reference that ends it."""
    number = id(sock)
    _sockets[number] = make(_weakref(sock, lambda _: _forget(number)))


def _forget(number):
    try:
        followed = _sockets.pop(number, None)
        if followed is not None:
            followed.close()
    except Exception:
        pass


def _like(original, hook):
    """Gives the hook the name and the text of what it replaces."""
    for name in ("__name__", "__qualname__", "__doc__", "__module__"):
        try:
            setattr(hook, name, getattr(original, name))
        except Exception:
            pass
    return hook


def _patch_socket(module):
    import errno
    from _weakref import ref

    import _socket

    global _weakref
    _weakref = ref
    cls = module.socket
    family, kind, timeout = _socket.socket.family.__get__, _socket.socket.type.__get__, _socket.socket.gettimeout
    inet = (_socket.AF_INET, _socket.AF_INET6)

    def accept(original):
        def hook(self):
            conn, address = original(self)
            try:
                if family(conn) in inet and kind(conn) == _socket.SOCK_STREAM:
                    key = _key(conn, conn.getsockname(), address)
                    _follow(conn, lambda ref: _Inbound(ref, key))
            except Exception:
                pass
            return conn, address

        return hook

    def connect(original):
        def hook(self, address):
            try:
                if family(self) in inet and kind(self) == _socket.SOCK_STREAM:
                    _follow(self, _Outbound)
            except Exception:
                pass
            remote = address
            try:
                result = original(self, address)
                remote = None if not result else address if result == errno.EINPROGRESS else _UNSET
                return result
            except BlockingIOError:
                raise
            except BaseException:
                remote = _UNSET
                raise
            finally:
                try:
                    if remote is not _UNSET:
                        _opened(self, remote)
                except Exception:
                    pass

        return hook

    def read(flags_at, count):
        def wrap(original):
            def hook(self, *args, **kwargs):
                result = original(self, *args, **kwargs)
                followed = _sockets.get(id(self))
                if followed is not None:
                    try:
                        flags = args[flags_at] if len(args) > flags_at else kwargs.get("flags", 0)
                        if flags & _socket.MSG_PEEK:
                            return result
                        taken = count(result)
                        if not taken:
                            pass
                        elif followed.outbound:
                            followed.answered = True
                        else:
                            followed.received += taken
                            followed.unanswered = True
                            if followed.by_loop or timeout(self) != 0.0:
                                _pick_up(followed, followed.received)
                    except Exception:
                        pass
                return result

            return hook

        return wrap

    def write(original):
        def hook(self, data, *args):
            followed = _sockets.get(id(self))
            if followed is not None:
                try:
                    if not followed.outbound:
                        followed.unanswered = False
                    elif followed.http is not False:
                        _mark(followed, self, data)
                except Exception:
                    pass
            return original(self, data, *args)

        return hook

    def write_several(original):
        def hook(self, buffers, *args):
            followed = _sockets.get(id(self))
            if followed is not None:
                buffers = list(buffers)  # asyncio gives an iterator, which must not be used up here.
                try:
                    if not followed.outbound:
                        followed.unanswered = False
                    elif followed.http is not False and buffers:
                        _mark(followed, self, buffers[0])
                except Exception:
                    pass
            return original(self, buffers, *args)

        return hook

    def close(original):
        def hook(self, *args):
            _forget(id(self))  # Before the port can be used again.
            return original(self, *args)

        return hook

    hooks = {
        "accept": accept,
        "connect": connect,
        "connect_ex": connect,
        "recv": read(1, len),
        "recv_into": read(2, int),
        "recvfrom": read(1, lambda result: len(result[0])),
        "recvfrom_into": read(2, lambda result: result[0]),
        "recvmsg": read(2, lambda result: len(result[0])),
        "recvmsg_into": read(2, lambda result: result[0]),
        "send": write,
        "sendall": write,
        "sendto": write,
        "sendmsg": write_several,
        "_real_close": close,
    }
    for name, wrap in hooks.items():
        original = getattr(cls, name)
        setattr(cls, name, _like(original, wrap(original)))


def _patch_threading(module):
    cls = module.Thread
    start = cls.start
    carries = "_ripstop_serves"

    def hook(self):
        try:
            serves = _current()
            # Threads of a multiprocessing.pool.ThreadPool outlive the request that needed the first of them.
            if serves and not type(self).__module__.startswith("multiprocessing"):
                carried = serves[:2] + (True,)
                if sys.version_info < (3, 14):
                    self.__dict__[carries] = carried
                elif self._context is None and not sys.flags.thread_inherit_context:
                    self._context = type(_empty)()
                    self._context.run(_serves.set, carried)
        except Exception:
            pass
        return start(self)

    cls.start = _like(start, hook)
    if sys.version_info < (3, 14):
        bootstrap = cls._bootstrap_inner

        def begin(self):
            try:
                carried = self.__dict__.pop(carries, None)
                if carried:
                    _serves.set(carried)
            except Exception:
                pass
            return bootstrap(self)

        cls._bootstrap_inner = _like(bootstrap, begin)


def _patch_queue(module):
    get = module.Queue.get

    def hook(self, *args, **kwargs):
        item = get(self, *args, **kwargs)
        try:
            # What a thread takes from a queue is not the work of whoever started the thread.
            if len(_serves.get() or ()) == 3:
                _serves.set(None)
        except Exception:
            pass
        return item

    module.Queue.get = _like(get, hook)


def _patch_executor(module):
    cls = module._WorkItem
    init, run = cls.__init__, cls.run

    def submitted(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._ripstop_serves = _current()

    def hook(self, *args):
        try:
            # Also when it is None: the worker thread may have been started by some request.
            token = _serves.set(self._ripstop_serves)
        except Exception:
            return run(self, *args)
        try:
            return run(self, *args)
        finally:
            _serves.reset(token)

    cls.__init__ = _like(init, submitted)
    cls.run = _like(run, hook)


def _patch_asyncio(module):
    transport = sys.modules["asyncio.selector_events"]._SelectorSocketTransport
    tasks = sys.modules["asyncio.tasks"]
    reader = sys.modules["asyncio.streams"].StreamReader
    read_ready, resume, wait_for = transport._read_ready, reader._maybe_resume_transport, tasks.wait_for
    kinds = (tasks.Task, tasks._PyTask)

    def wakes(callback):
        # A task's own step, and not what another thread asked for meanwhile. (3.9 hides the task.)
        owner = getattr(callback, "__self__", None)
        return isinstance(owner, kinds) or type(callback).__name__ == "TaskWakeupMethWrapper"

    def hook(self):
        inbound = _sockets.get(id(self._sock))
        if inbound is None or inbound.outbound:
            return read_ready(self)
        inbound.by_loop = True
        before, ready = inbound.received, self._loop._ready
        already = len(ready)
        try:
            return read_ready(self)
        finally:
            try:
                if inbound.received != before:
                    for handle in [ready[i] for i in range(already, len(ready))]:
                        if wakes(handle._callback):
                            handle._context.run(_pick_up, inbound, inbound.received)
            except Exception:
                pass

    def consumed(self):
        # A task that finds its next request in the buffer is not woken up for it.
        try:
            inbound = _sockets.get(id(getattr(self._transport, "_sock", None)))
            if inbound is not None and not inbound.outbound:
                _pick_up(inbound, inbound.received - len(self._buffer))
        except Exception:
            pass
        return resume(self)

    transport._read_ready = _like(read_ready, hook)
    reader._maybe_resume_transport = _like(resume, consumed)

    if sys.version_info < (3, 12):

        async def wait(fut, timeout, **kwargs):
            waiting = _Waiting(_current())
            _serves.set(waiting)
            try:
                return await wait_for(fut, timeout, **kwargs)
            finally:
                if _serves.get() is waiting:
                    _serves.set(waiting.after or waiting.before)

        module.wait_for = tasks.wait_for = _like(wait_for, wait)


class _Finder:
    """Patches modules when they are imported: most programs need few of them, and start-up stays short."""

    patches = {
        "socket": _patch_socket,
        "threading": _patch_threading,
        "queue": _patch_queue,
        "concurrent.futures.thread": _patch_executor,
        "asyncio": _patch_asyncio,
    }

    def __init__(self, path):
        self.path = path
        self.waiting = dict(self.patches)

    def find_spec(self, name, path=None, target=None):
        if name not in self.waiting:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                self.watch(spec.loader)
                return spec
        return None

    def watch(self, loader):
        try:
            original = loader.exec_module

            def exec_module(module):
                original(module)
                self.patch(module)

            loader.exec_module = exec_module
        except Exception:
            pass

    def patch(self, module):
        global _table, _serves, _empty
        patch = self.waiting.pop(module.__name__, None)
        try:
            if _table is None:
                from _contextvars import Context, ContextVar

                _empty = Context()
                _serves = ContextVar("ripstop", default=None)
                _table = _Table(self.path)
                # A process of a pool outlives the request that needed the first of them.
                os.register_at_fork(after_in_child=lambda: _serves.set(None))
            if patch:
                patch(module)
        except Exception:
            if _table is None:
                self.waiting.clear()  # No table: nothing to do in this process.
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)


def _install():
    path = os.environ.get("RIPSTOP_TRACE")
    if path:
        finder = _Finder(path)
        sys.meta_path.insert(0, finder)
        for name in list(finder.waiting):
            if name in sys.modules:
                finder.patch(sys.modules[name])


def _hand_over():
    """Runs the sitecustomize that this one stands in front of, as Python would have."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
    from _frozen_importlib import module_from_spec
    from _frozen_importlib_external import PathFinder

    spec = PathFinder.find_spec(__name__, sys.path)
    if spec is not None and spec.loader is not None:
        module = sys.modules[__name__] = module_from_spec(spec)
        spec.loader.exec_module(module)


try:
    _install()
except Exception:
    pass
_hand_over()
