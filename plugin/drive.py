# SPDX-License-Identifier: MIT
"""nbdkit's callbacks: each hands over to the core, and gives its errno back.

    nbdkit -U SOCKET python plugin/drive.py drive=id=vda,file=disk.img control=qmp.sock

The keys are described in the README; `faultline serve` runs this plugin too.
"""

from __future__ import annotations

import os
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
TREE = os.path.dirname(HERE)
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
sys.path.insert(0, HERE)
import shortage  # noqa: E402

shortage.watch()

import ctypes  # noqa: E402
import importlib  # noqa: E402
import site  # noqa: E402
import threading  # noqa: E402
from collections.abc import Coroutine  # noqa: E402
from typing import Any  # noqa: E402

import nbdkit  # noqa: E402

# The core is the one beside this directory.  What else is there counts last: when that is
# where another Python has its packages, those of this one come before it.
sys.path.insert(0, TREE)
importlib.import_module("blockcore")
sys.path.remove(TREE)

import lifetime  # noqa: E402
from blockcore.process.start import Start  # noqa: E402

start = Start(os.environ, lifetime.outlive())
SERVING = "FAULTLINE_SERVE" in os.environ
start.begin(os.environ)
if SERVING:
    lifetime.at_exit(start.leftovers.remove)

site.addsitedir(os.path.join(TREE, ".venv", "lib", VERSION, "site-packages"))
sys.path.append(TREE)
# An embedded interpreter takes its prefix from the first python3 on PATH; if that is not the
# distribution's, libnbd would not be found.
sys.path += ["/usr/lib/python3/dist-packages", f"/usr/lib64/{VERSION}/site-packages"]

# structlog takes rich along where it finds it, to draw tracebacks that nobody draws here: a
# tenth of the time until the machine is ready.
sys.modules["rich"] = None  # type: ignore[assignment]
importlib.import_module("structlog")
del sys.modules["rich"]

import failure  # noqa: E402
import heap  # noqa: E402
import survive  # noqa: E402
import threadstate  # noqa: E402
from blockcore.nodes.shortcut.slot import Slot  # noqa: E402
from blockcore.process.connection import Connection  # noqa: E402
from blockcore.process.recursion import allow_recursion  # noqa: E402
from blockcore.process.server import Server  # noqa: E402
from blockcore.qapi.names import QmpError  # noqa: E402

API_VERSION = 2

EIO = 5
ENOTSUP = 95
ENOMEDIUM = 123
NBD_ERRNOS = frozenset((1, EIO, 12, 22, 28, 108, ENOMEDIUM))
"""What nbdkit says in answer to any request; it turns everything else into EINVAL.

ENOMEDIUM becomes that, too, as in the answers of QEMU's server.
ENOTSUP is for fast zeroes only; EOVERFLOW is for a flag that plugins do not see.
"""

local = threadstate.local
allow_recursion()
server = Server(os.environ, os.getcwd(), start)
_libc = ctypes.CDLL(None)
heap.be_one()
failure.install((OSError, QmpError))


def _alive() -> bool:
    """Whether this request's client is still connected.

    nbdkit says "error: aborting sleep" where it is not, and at the end, which
    is known here.
    """
    return server.is_ending() or bool(_libc.nbdkit_nanosleep(0, 0) == 0)


def _slot(h: Connection) -> Slot:
    """The slot of this thread, made on its first request.

    With `-t 1` nbdkit has no workers: the requests come on the thread of the
    connection, or with `-s` on the main one.  nbdkit does not wait for the end
    of these before it takes the interpreter down, so that nothing of theirs
    may be left to be given back then.
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
    """Carry out one guest request on this thread; `fast` tells a fast zero."""
    _slot(h)
    try:
        return server.lock.run_in_thread(coro, _alive)
    except OSError as error:
        number, reason = error.errno, error.strerror
    known = number in NBD_ERRNOS or (fast and number == ENOTSUP)
    nbdkit.set_error(number if known else EIO)
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
    # The assertion that is outlived is gone in 1.34, which also brought this call to Python.
    # Last: faulthandler, which has been enabled, would dump the stacks first.
    if not hasattr(nbdkit, "disconnect"):
        survive.install(server.worker_lost)


def cleanup() -> None:
    server.cleanup()
    if SERVING:
        lifetime.at_exit_no_more()


def list_exports(readonly: bool, is_tls: bool) -> list[tuple[str, str]]:
    return server.exports()


def default_export(readonly: bool, is_tls: bool) -> str:
    return server.default_export()


def open(readonly: bool) -> Connection:
    try:
        connection = server.connect(nbdkit.export_name(), readonly)
    except OSError as error:
        number, reason = error.errno, error.strerror
    else:
        connection.opener = threading.get_native_id()
        return connection
    nbdkit.set_error(number)
    raise failure.Failure(number, reason)


def close(h: Connection) -> None:
    h.close()
    server.connection_closed()


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


can_trim = can_zero = can_fast_zero = can_extents = can_multi_conn = can_flush


def can_fua(h: Connection) -> int:
    return int(nbdkit.FUA_NATIVE)


def can_cache(h: Connection) -> int:
    """nbdkit reads and throws away: a prefetch that fails is a read that fails."""
    return int(nbdkit.CACHE_EMULATE)


def pread(h: Connection, buf: memoryview, offset: int, flags: int) -> None:
    tried = h.shortcut_pread(_slot(h), offset, buf)
    if tried is not True:
        _run(h, h.blk.pread(offset, buf, tried))


def pwrite(h: Connection, buf: memoryview, offset: int, flags: int) -> None:
    if flags & nbdkit.FLAG_FUA:
        _run(h, h.blk.pwrite(offset, buf, fua=True))
        return
    tried = h.shortcut_pwrite(_slot(h), offset, buf)
    if tried is not True:
        _run(h, h.blk.pwrite(offset, buf, tried=tried))


def flush(h: Connection, flags: int) -> None:
    _run(h, h.blk.flush())


def trim(h: Connection, count: int, offset: int, flags: int) -> None:
    _run(h, h.blk.discard(offset, count, fua=bool(flags & nbdkit.FLAG_FUA)))


def zero(h: Connection, count: int, offset: int, flags: int) -> None:
    may_unmap = bool(flags & nbdkit.FLAG_MAY_TRIM)
    fua, fast = bool(flags & nbdkit.FLAG_FUA), bool(flags & nbdkit.FLAG_FAST_ZERO)
    _run(h, h.blk.zero(offset, count, may_unmap=may_unmap, fua=fua, fast=fast), fast)


def extents(h: Connection, count: int, offset: int, flags: int) -> list[tuple[int, int, int]]:
    entries = []
    for extent in _run(h, h.blk.block_status(offset, count)):
        hole = 0 if extent.data else nbdkit.EXTENT_HOLE
        zeroes = nbdkit.EXTENT_ZERO if extent.zero else 0
        entries.append((offset, extent.length, hole | zeroes))
        offset += extent.length
    return entries
