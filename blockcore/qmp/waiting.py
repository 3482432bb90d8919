# SPDX-License-Identifier: MIT
"""The queue of what a client has sent behind its outstanding command."""

from __future__ import annotations

from collections import deque
from typing import Final

from blockcore.qapi.json.stream import Parsed, ParseError

LENGTH: Final = 8
"""The number of items that may wait, as in QEMU (QMP_REQ_QUEUE_LEN_MAX).

Input behind them is not parsed, so that also a command to be executed out of band has to wait.
"""

SIZE: Final = 256 << 10
"""The size of all items (`Parsed.size`) from which no more are kept.

QEMU has no such limit; without one, a client could have the server keep 8 values of 64 MiB each.
"""

Item = Parsed | ParseError


class Waiting:
    """A bounded queue of parsed values and errors; `items` has them, oldest first."""

    def __init__(self) -> None:
        self.items: deque[Item] = deque()

    def has_room(self) -> bool:
        """Return whether one more item may be kept."""
        sizes = (item.size for item in self.items if isinstance(item, Parsed))
        return len(self.items) < LENGTH and sum(sizes) < SIZE

    def push(self, item: Item) -> None:
        """Append an item."""
        self.items.append(item)

    def pop(self) -> Item:
        """Remove the oldest item and return it."""
        return self.items.popleft()
