# SPDX-License-Identifier: MIT
"""Real machines without Python's cyclic collector, which tell in the end what only it would free.

They hang up on a control client as soon as an event does not fit into its socket.
"""

from __future__ import annotations

import json
from collections import Counter

from blockcore.cli.nbdkit_command import find_plugin
from live import Bare

PLUGIN = """
import gc, io, json, types
__file__ = {drive!r}
exec(compile(open(__file__).read(), __file__, "exec"))
import blockcore.process.control, blockcore.process.ending
blockcore.process.control.QUEUE_BYTES = 0
# What it has to tell takes longer on a busy system than an end may.
blockcore.process.ending.FORCE_S = 60
_after_fork, _cleanup = after_fork, cleanup

def after_fork():
    # What is imported at its first use leaves classes: dataclasses with slots are made twice.
    from blockcore.process.warm import load_all
    load_all()
    gc.collect()
    gc.freeze()
    gc.disable()
    _after_fork()

def cleanup():
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    with io.open({told!r}, "w") as told:
        json.dump([_told(one) for one in gc.garbage], told)
    gc.set_debug(0)
    _cleanup()

def _told(one):
    if isinstance(one, types.FrameType):
        return f"frame {{one.f_code.co_qualname}}"
    if isinstance(one, types.FunctionType):
        return f"function {{one.__qualname__}}"
    if isinstance(one, types.CoroutineType):
        return f"coroutine {{one.__qualname__}}"
    if isinstance(one, BaseException):
        return f"{{type(one).__qualname__}} {{one}}"
    return f"{{type(one).__module__}}.{{type(one).__qualname__}}"
"""


class Watched(Bare):
    """A machine that nbdkit serves, with the plugin inside of one that watches it."""

    def _command(
        self, keys: tuple[str, ...], options: tuple[str, ...]
    ) -> tuple[list[str], dict[str, str]]:
        plugin = self.directory / "watched.py"
        self._told = self.directory / "garbage"
        plugin.write_text(PLUGIN.format(drive=str(find_plugin()), told=str(self._told)))
        argv, env = super()._command(keys, options)
        return [str(plugin) if word == str(find_plugin()) else word for word in argv], env

    def garbage(self) -> Counter[str]:
        """Let it end, and tell what was left in cycles, by type."""
        assert self.stop() == 0
        return Counter(json.loads(self._told.read_text()))
