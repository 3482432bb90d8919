# SPDX-License-Identifier: MIT
"""For whom a routine runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Asker:
    """The one for whom a routine runs: a request of a guest, a job, a command.

    `connection` is the number of the guest's connection, from 1 on; 0 for what no guest
    has asked for.  `fault` is the id of the fault rule that keeps the routine waiting, None
    if none does.  `hit` is the id of the rule that has last hit what is asked for.
    While it is `unruled`, no rule is about what it asks for.
    """

    __slots__ = ("connection", "fault", "hit", "unruled")

    def __init__(self, connection: int = 0) -> None:
        self.connection = connection
        self.fault: str | None = None
        self.hit: str | None = None
        self.unruled = False

    @contextmanager
    def past_rules(self) -> Iterator[None]:
        """Let what is asked for inside the context pass all fault rules, uncounted."""
        before, self.unruled = self.unruled, True
        try:
            yield
        finally:
            self.unruled = before
