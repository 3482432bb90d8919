# SPDX-License-Identifier: MIT
"""nbdkit's callbacks: each calls the core, and passes the errno of a failure to nbdkit.

    nbdkit -U SOCKET python plugin/drive.py drive=id=vda,file=disk.img control=qmp.sock

The README describes the keys; `faultline serve` runs this plugin as well.

nbdkit calls the callbacks of requests on worker threads, several per connection;
those that concern a connection on the connection's thread; all others on its
main thread.

The order of imports matters: first what reports a lack of memory (`shortage`),
then what takes over signals (`Start`), then the rest.
"""

from __future__ import annotations

import gc
import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
TREE = os.path.dirname(HERE)
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
sys.path.insert(0, HERE)
import shortage  # noqa: E402

shortage.watch()
# Imports make few objects that are garbage: looking for them takes a tenth of the start.
gc.disable()

import ctypes  # noqa: E402
import importlib  # noqa: E402
import site  # noqa: E402
import threading  # noqa: E402
from collections.abc import Coroutine  # noqa: E402
from typing import Any  # noqa: E402

import nbdkit  # noqa: E402

# The core is the package beside this directory, whatever else has that name.  For all other
# packages TREE comes last: it may be the site-packages of another Python.
sys.path.insert(0, TREE)
importlib.import_module("blockcore")
sys.path.remove(TREE)

import lifetime  # noqa: E402
from blockcore.bql.later import without  # noqa: E402
from blockcore.process.start import Start  # noqa: E402

start = Start(os.environ, lifetime.outlive(), lifetime.take_default)
SERVING = "FAULTLINE_SERVE" in os.environ
start.begin(os.environ)
if SERVING:
    lifetime.at_exit(start.exits)

if not SERVING:  # `faultline serve` says where packages are
    site.addsitedir(os.path.join(TREE, ".venv", "lib", VERSION, "site-packages"))
sys.path.append(TREE)
# Where distributions have libnbd's module: an embedded interpreter takes its prefix from the
# first python3 on PATH, which need not be the distribution's.
sys.path += ["/usr/lib/python3/dist-packages", f"/usr/lib64/{VERSION}/site-packages"]

# asyncio imports ssl if it is there, for what nobody does here, and the import takes as long as
# asyncio's own.
with without("ssl"):
    importlib.import_module("asyncio")

import failure  # noqa: E402
import heap  # noqa: E402
import own_socket  # noqa: E402
import survive  # noqa: E402
import threadstate  # noqa: E402
from blockcore.nodes.shortcut.slot import Slot  # noqa: E402
from blockcore.process.connection import Connection  # noqa: E402
from blockcore.process.recursion import allow_recursion  # noqa: E402
from blockcore.process.server import Server  # noqa: E402
from blockcore.qapi.errnos import HungUp, told_by_nbd  # noqa: E402
from blockcore.qapi.names import QmpError  # noqa: E402

API_VERSION = 2

local = threadstate.local
allow_recursion()
server = Server(os.environ, os.getcwd(), start)
_libc = ctypes.CDLL(None)
heap.be_one()
failure.install((OSError, QmpError))
gc.enable()


def _alive() -> bool:
    """Return whether the client of this thread's request is still connected.

    Asks nbdkit for a sleep of no time, which fails if the client is gone.  nbdkit
    logs an error then, and also when it is ending; so it is not asked at the end.
    """
    return server.is_ending() or bool(_libc.nbdkit_nanosleep(0, 0) == 0)


def _slot(h: Connection) -> Slot:
    """Return the slot of this thread; made on its first request.

    With `-t 1` nbdkit has no workers: requests come on the thread that opened the
    connection, or with `-s` on the main thread.  nbdkit takes the interpreter
    down without waiting for these threads to end.  So their state is not kept
    (`threadstate`), and the connection has their slot.
    """
    try:
        slot: Slot = local.slot
    except AttributeError:
        if threading.get_native_id() == h.opener:
            return h.opener_slot()
        slot = local.slot = h.new_slot()
        threadstate.keep(lambda: h.retire(slot))
    return slot


def _run(h: Connection, coro: Coroutine[Any, Any, Any], fast: bool = False) -> Any:
    """Run the coroutine of one guest request on this thread, and return its result.

    An OSError is passed to nbdkit by its errno, and raised as `Failure`.  `fast`
    says that the request is a fast zero, which may fail with ENOTSUP.
    """
    _slot(h)
    try:
        return server.lock.run_in_thread(coro, _alive, h.number)
    except OSError as error:
        number, reason = error.errno, error.strerror
        if isinstance(error, HungUp) and h.socket is None and hasattr(nbdkit, "disconnect"):
            nbdkit.disconnect(True)
    # Raised outside the `except` clause: otherwise the OSError would be the failure's context,
    # and be kept with all of its frames.
    nbdkit.set_error(told_by_nbd(number, fast))
    raise failure.Failure(number, reason)


def thread_model() -> int:
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def config(key: str, value: str) -> None:
    server.config(key, value)


def config_complete() -> None:
    server.config_complete()


def get_ready() -> None:
    server.get_ready()


def after_fork() -> None:
    server.after_fork(nbdkit.shutdown, heap.trim)
    # nbdkit 1.34 no longer has the assertion that `survive` outlives; `disconnect`, which is new
    # in 1.34, tells the versions apart.  After the server's start: the server enables
    # faulthandler, whose handler of SIGABRT would otherwise come first and dump all stacks.
    if not hasattr(nbdkit, "disconnect"):
        survive.install(server.worker_lost)


def cleanup() -> None:
    server.cleanup()
    if SERVING:
        lifetime.at_exit_no_more()


def list_exports(readonly: bool, is_tls: bool) -> list[tuple[str, str]]:
    return server.exports.described()


def default_export(readonly: bool, is_tls: bool) -> str:
    return server.exports.default()


def open(readonly: bool) -> Connection:
    try:
        connection = server.exports.connect(
            nbdkit.export_name(), readonly, own_socket.own_socket, _alive
        )
    except OSError as error:
        number, reason = error.errno, error.strerror
    else:
        connection.opener = threading.get_native_id()
        return connection
    nbdkit.set_error(number)
    raise failure.Failure(number, reason)


def close(h: Connection) -> None:
    server.disconnected(h)


def get_size(h: Connection) -> int:
    return h.blk.size


def block_size(h: Connection) -> tuple[int, int, int]:
    return h.block_size()


def can_write(h: Connection) -> bool:
    return h.writable


def is_rotational(h: Connection) -> bool:
    return False


def can_flush(h: Connection) -> bool:
    return True


# Multi-conn: all connections of a drive write to the same nodes, so a flush on one of them covers
# the writes of all.
can_trim = can_zero = can_fast_zero = can_extents = can_multi_conn = can_flush


def can_fua(h: Connection) -> int:
    return int(nbdkit.FUA_NATIVE)


def can_cache(h: Connection) -> int:
    """Let nbdkit read the range and drop the data: a prefetch fails as a read does."""
    return int(nbdkit.CACHE_EMULATE)


def pread(h: Connection, buf: memoryview, offset: int, flags: int) -> None:
    tried = h.shortcut_pread(_slot(h), offset, buf)
    if tried is not True:
        _run(h, h.guest.pread(offset, buf, tried))


def pwrite(h: Connection, buf: memoryview, offset: int, flags: int) -> None:
    if flags & nbdkit.FLAG_FUA:  # the shortcut cannot flush
        _run(h, h.guest.pwrite(offset, buf, fua=True))
        return
    tried = h.shortcut_pwrite(_slot(h), offset, buf)
    if tried is not True:
        _run(h, h.guest.pwrite(offset, buf, tried=tried))


def flush(h: Connection, flags: int) -> None:
    _run(h, h.guest.flush())


def trim(h: Connection, count: int, offset: int, flags: int) -> None:
    _run(h, h.guest.discard(offset, count, fua=bool(flags & nbdkit.FLAG_FUA)))


def zero(h: Connection, count: int, offset: int, flags: int) -> None:
    may_unmap = bool(flags & nbdkit.FLAG_MAY_TRIM)
    fua, fast = bool(flags & nbdkit.FLAG_FUA), bool(flags & nbdkit.FLAG_FAST_ZERO)
    _run(h, h.guest.zero(offset, count, may_unmap=may_unmap, fua=fua, fast=fast), fast)


def extents(h: Connection, count: int, offset: int, flags: int) -> list[tuple[int, int, int]]:
    entries = []
    for extent in _run(h, h.guest.block_status(offset, count)):
        hole = 0 if extent.data else nbdkit.EXTENT_HOLE
        zeroes = nbdkit.EXTENT_ZERO if extent.zero else 0
        entries.append((offset, extent.length, hole | zeroes))
        offset += extent.length
    return entries
