"""nbdkit's callbacks: each hands over to the core, and gives its errno back.

    nbdkit -U SOCKET python plugin/drive.py drive=id=vda,file=disk.img control=qmp.sock

The keys are described in the README; `faultline serve` runs this plugin too.
"""

import ctypes
import os
import site
import sys
import traceback

import nbdkit

_TREE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
if os.path.isdir(os.path.join(_TREE, "blockcore")):
    sys.path[:0] = [_TREE, os.path.dirname(os.path.realpath(__file__))]
    _PACKAGES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    site.addsitedir(os.path.join(_TREE, ".venv", _PACKAGES))
else:
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import threadstate  # noqa: E402

from blockcore.server import Connection, Server  # noqa: E402

API_VERSION = 2

NBD_ERRNOS = frozenset((1, 5, 12, 22, 28, 75, 95, 108))
"""What the NBD protocol can say; nbdkit turns the others into EINVAL."""

_libc = ctypes.CDLL(None)
server = Server(os.environ, os.getcwd())


def _one_line(kind, error, trace):
    """What nbdkit prints of an exception: an errno is an answer, not a crash."""
    if isinstance(error, (OSError, server.config_error)):
        return [str(error)]
    return _format_exception(kind, error, trace)


_format_exception, traceback.format_exception = traceback.format_exception, _one_line


def _alive():
    """Whether this request's client is still connected and nbdkit is not quitting."""
    return _libc.nbdkit_nanosleep(0, 0) == 0


def _wait_for_shutdown():
    """Returns when nbdkit begins to quit, whatever the reason."""
    while _libc.nbdkit_nanosleep(1 << 30, 0) == 0:
        pass


def _slot(h):
    slot = h.new_slot()
    threadstate.local.slot = slot
    threadstate.keep(lambda: h.retire(slot))
    return slot


def _run(h, coro):
    """Carry out one guest request on this thread."""
    if not hasattr(threadstate.local, "slot"):
        _slot(h)
    try:
        return server.lock.run_in_thread(coro, _alive)
    except OSError as error:
        nbdkit.set_error(error.errno if error.errno in NBD_ERRNOS else 5)
        raise


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def config(key, value):
    server.config(key, value)


def config_complete():
    server.config_complete()


def get_ready():
    server.get_ready()


def after_fork():
    server.after_fork(nbdkit.shutdown, _wait_for_shutdown)


def cleanup():
    server.cleanup()


def list_exports(readonly, is_tls):
    return server.exports()


def default_export(readonly, is_tls):
    return server.default_export()


def open(readonly):
    try:
        return server.connect(nbdkit.export_name(), readonly)
    except OSError as error:
        nbdkit.set_error(error.errno)
        raise


def close(h):
    h.close()


def get_size(h):
    return h.blk.size


def block_size(h):
    return h.block_size()


def can_write(h):
    return h.writable


def is_rotational(h):
    return False


def can_flush(h):
    return True


can_trim = can_zero = can_fast_zero = can_extents = can_multi_conn = can_flush


def can_fua(h):
    return nbdkit.FUA_NATIVE


def can_cache(h):
    """nbdkit reads and throws away: a prefetch that fails is a read that fails."""
    return nbdkit.CACHE_EMULATE


def pread(h, buf, offset, flags):
    local = threadstate.local
    slot = local.slot if hasattr(local, "slot") else _slot(h)
    buf = memoryview(buf)
    done, error = h.short_pread(slot, buf, offset)
    if not done:
        _run(h, h.blk.pread(offset, buf, error))


def pwrite(h, buf, offset, flags):
    local = threadstate.local
    slot = local.slot if hasattr(local, "slot") else _slot(h)
    buf = memoryview(buf)
    done, error = (False, None) if flags else h.short_pwrite(slot, buf, offset)
    if not done:
        _run(h, h.blk.pwrite(offset, buf, bool(flags & nbdkit.FLAG_FUA), error))


def flush(h, flags):
    _run(h, h.blk.flush())


def trim(h, count, offset, flags):
    _run(h, h.blk.discard(offset, count, bool(flags & nbdkit.FLAG_FUA)))


def zero(h, count, offset, flags):
    fast = bool(flags & nbdkit.FLAG_FAST_ZERO)
    _run(
        h,
        h.blk.zero(
            offset,
            count,
            may_unmap=bool(flags & nbdkit.FLAG_MAY_TRIM),
            fua=bool(flags & nbdkit.FLAG_FUA),
            fast=fast,
        ),
    )


def extents(h, count, offset, flags):
    found = _run(h, h.blk.block_status(offset, count))
    hole, zeroes = nbdkit.EXTENT_HOLE, nbdkit.EXTENT_ZERO
    entries = []
    for extent in found:
        kind = (0 if extent.data else hole) | (zeroes if extent.zero else 0)
        entries.append((offset, extent.length, kind))
        offset += extent.length
    return entries
