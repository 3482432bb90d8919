# SPDX-License-Identifier: MIT
"""Opening and closing of a node, whatever errors its driver raises."""

from __future__ import annotations

from contextlib import suppress

from blockcore.nodes.node import BlockNode
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError


async def open_node(node: BlockNode) -> None:
    """Open a node; raise QmpError, into which an OSError of the driver is turned."""
    try:
        with node.outcome:
            await node.do_open()
    except OSError as exc:
        reason = reason_of(exc)
        raise QmpError(f"Could not open '{node.node_name}': {reason}") from None


async def close_node(node: BlockNode) -> None:
    """Flush and close a node; errors are ignored.

    Its children are closed later, so they can take the last writes.
    """
    await flush_quietly(node)
    with suppress(OSError), node.outcome:
        await node.do_close()


async def flush_quietly(node: BlockNode) -> None:
    """Flush a node, and ignore errors: for places that cannot report one."""
    with suppress(OSError):
        await node.flush()
