# SPDX-License-Identifier: MIT
"""A node whose requests somebody else answers, or never does: what can be done about that."""

from __future__ import annotations

from blockcore.nodes.node import BlockNode


class ConnectedNode(BlockNode):
    """Has connections to a server.  None of the methods waits for anything."""

    def cancel_in_flight(self) -> None:
        """Let requests fail that wait for a connection (bdrv_cancel_in_flight)."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """Let all requests fail that are under way; the next one connects again."""
        raise NotImplementedError

    def yank(self) -> None:
        """Let all requests fail, now and later, also an attempt to open the node."""
        raise NotImplementedError
