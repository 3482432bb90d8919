# SPDX-License-Identifier: MIT
"""A plugin for nbdkit that is loaded once, and of which each machine is a fork: see `hatchery`.

What a machine imports is imported here; then orders are awaited on the socket that is
standard input.  The child of an order becomes `faultline serve --standby`: it runs
plugin/drive.py from the first line on, and finds its keys on its standard input.

nbdkit has only its main thread when it loads a plugin, so that a fork is safe.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

PLUGIN = Path(os.environ["HATCHED_PLUGIN"])
MODULES = ("failure", "heap", "lifetime", "own_socket", "shortage", "survive", "threadstate")

sys.path[:0] = [str(PLUGIN.parent), str(PLUGIN.parents[1])]
later = importlib.import_module("blockcore.bql.later")
with later.without("ssl"):
    importlib.import_module("asyncio")
for name in (*MODULES, "blockcore.process.server", "blockcore.process.standby"):
    importlib.import_module(name)
importlib.import_module("blockcore.process.warm").load_all()
sys.path.remove(str(PLUGIN.parents[1]))
code = compile(PLUGIN.read_bytes(), PLUGIN, "exec")
gc.collect()
gc.freeze()


def hatch(nest: socket.socket) -> None:
    """Fork for each order; returns in the children only, with their descriptors in place."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits: there is a pidfd
    while True:
        line, given, _, _ = socket.recv_fds(nest, 1 << 16, 3)
        if not line:
            os._exit(0)
        if pid := os.fork():
            pidfd = os.pidfd_open(pid)
            socket.send_fds(nest, [str(pid).encode()], [pidfd])
            for descriptor in (*given, pidfd):
                os.close(descriptor)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nest.close()
        for number, descriptor in enumerate(given):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ |= json.loads(line)
        return


hatch(socket.socket(fileno=os.dup(0)))
__file__ = str(PLUGIN)
exec(code)
