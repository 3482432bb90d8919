# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/lent.py.
"""What a machine has for the length of a block."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from faultline.errors import CommandError, MachineEnded


class Lent:
    """Something that has been added to a machine, and that the end of a block takes away.

    That is no error if it, or the machine, is gone by then: what hits once is gone
    by itself, and the machine's end has an error of its own.
    """

    def _take_away(self) -> None:
        """Undo the addition; raises CommandError if there is nothing to undo any more."""
        raise NotImplementedError

    def _note(self) -> str | None:
        """Return what an error that leaves the block is told, if anything."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        note = self._note()
        if error is not None and note is not None:
            error.add_note(note)
        try:
            self._take_away()
        except (CommandError, MachineEnded):
            return
