# SPDX-License-Identifier: MIT
"""What a client has sent behind the command that is outstanding, and is kept for later."""

from __future__ import annotations

from collections import deque
from typing import Final

from blockcore.qapi.json.stream import Parsed, ParseError

LENGTH: Final = 8
"""So many wait, as in QEMU (QMP_REQ_QUEUE_LEN_MAX).

Behind them nothing is looked at, also nothing that is to be executed out of band.
"""

SIZE: Final = 256 << 10
"""If they have this size together, no more are kept; QEMU has no such limit."""

Item = Parsed | ParseError


class Waiting:
    """A queue of values and errors of the input; `items` is for looking at."""

    def __init__(self) -> None:
        self.items: deque[Item] = deque()

    def has_room(self) -> bool:
        """Whether one more may be kept."""
        sizes = (item.size for item in self.items if isinstance(item, Parsed))
        return len(self.items) < LENGTH and sum(sizes) < SIZE

    def push(self, item: Item) -> None:
        """Keep one more."""
        self.items.append(item)

    def pop(self) -> Item:
        """The first one, which waits no more."""
        return self.items.popleft()
