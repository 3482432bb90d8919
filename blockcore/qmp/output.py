# SPDX-License-Identifier: MIT
"""What one client is sent: messages out of a queue, as bytes, a bit at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from blockcore.qapi.json.writer import Shared, at_once, pieces

CHUNK: Final = 16 << 10
"""About so many bytes are taken in one go."""

CHUNK_PIECES: Final = 500

Message = dict[str, Any] | Shared


class Broken(Exception):
    """A message that cannot be written, of which the client has the beginning already."""


class Output:
    """Takes messages from `next_message`, which gives None when there is none.

    What a message that cannot be written is replaced by, `replacement` says.
    """

    def __init__(
        self,
        next_message: Callable[[], Message | None],
        replacement: Callable[[dict[str, Any], Exception], dict[str, Any]],
    ) -> None:
        self.replies = 0
        """Bytes of replies that were taken; events are not counted."""
        self.in_message = False
        """Whether the rest of a message is still to come."""
        self._next_message = next_message
        self._replacement = replacement
        self._message: dict[str, Any] = {}
        self._pieces: Iterator[str] | None = None
        self._begun = False
        self._mark = 0

    def take(self) -> bytes:
        """The next bytes to send; none if there is nothing."""
        chunk: list[str] = []
        size = 0
        while size < CHUNK and len(chunk) < CHUNK_PIECES:
            if self._pieces is not None:
                piece = self._next_piece(chunk)
            elif (message := self._next_message()) is None:
                break
            elif isinstance(message, Shared):
                piece = message.line
            else:
                self._mark = len(chunk)
                piece = self._begin(message)
            chunk.append(piece)
            size += len(piece)
        self._begun = self.in_message = self._pieces is not None
        return "".join(chunk).encode("ascii")

    def _begin(self, message: dict[str, Any]) -> str:
        """All of a message, or nothing yet."""
        self._message = message
        try:
            text = at_once(message)
        except Exception as exc:
            self._message = self._replacement(message, exc)
            text = None
        if text is None:
            self._pieces = pieces(self._message)
            return ""
        self.replies += len(text) + 2
        return text + "\r\n"

    def _next_piece(self, chunk: list[str]) -> str:
        assert self._pieces is not None
        try:
            piece = next(self._pieces, None)
        except Exception as exc:
            if self._begun:
                raise Broken from exc
            del chunk[self._mark :]
            self._message = self._replacement(self._message, exc)
            self._pieces = pieces(self._message)
            return ""
        if piece is None:
            self._pieces, self._begun = None, False
            piece = "\r\n"
        self.replies += len(piece)
        return piece
