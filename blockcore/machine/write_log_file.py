# SPDX-License-Identifier: MIT
"""Saving what a cache may lose as a file."""

from __future__ import annotations

from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.flat_options import open_options
from blockcore.nodes.graph.create import create_image_file
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError
from blockcore.rules.log_writes import encoded
from blockcore.rules.write_log import WriteLog


async def save_write_log(machine: Machine, log: WriteLog, filename: str) -> int:
    """Write a log, as it is now, to a new file; return how many writes it has.

    Raise QmpError, also for a file that a node uses.
    """
    chunks, size = encoded(log)
    writes = len(log)
    await create_image_file(machine.graph, machine, filename, "raw", size)
    file = await machine.graph.open(open_options({}, filename, protocol=True))
    try:
        for offset, data in chunks:
            await file.pwrite(offset, memoryview(data))
        await file.flush()
    except OSError as exc:
        raise QmpError(f"Could not write '{filename}': {reason_of(exc)}") from None
    finally:
        await machine.graph.release(file)
    return writes
