# SPDX-License-Identifier: MIT
"""The beginning and the end of a node, which nothing that goes wrong in its driver prevents."""

from __future__ import annotations

from contextlib import suppress

from blockcore.nodes.node import BlockNode
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError


async def open_node(node: BlockNode) -> None:
    """Let the driver open what it needs; QmpError."""
    try:
        with node.outcome:
            await node.do_open()
    except OSError as exc:
        reason = reason_of(exc)
        raise QmpError(f"Could not open '{node.node_name}': {reason}") from None


async def close_node(node: BlockNode) -> None:
    """Bring everything to the children, which are to be closed next, and be closed."""
    await flush_quietly(node)
    with suppress(OSError), node.outcome:
        await node.do_close()


async def flush_quietly(node: BlockNode) -> None:
    """Flush a node where nobody could be told of an error."""
    with suppress(OSError):
        await node.flush()
