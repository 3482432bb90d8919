"""What one client is sent: messages out of a queue, as bytes, a bit at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from blockcore.qmp.jsonwriter import Shared, pieces

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
        self._next_message = next_message
        self._replacement = replacement
        self._message: dict[str, Any] = {}
        self._pieces: Iterator[str] | None = None
        self._begun = False

    def in_message(self) -> bool:
        """Whether the rest of a message is still to come."""
        return self._pieces is not None

    def take(self) -> bytes:
        """The next bytes to send; none if there is nothing."""
        chunk: list[str] = []
        size = 0
        while size < CHUNK and len(chunk) < CHUNK_PIECES:
            if self._pieces is None and not self._begin(chunk):
                break
            if self._pieces is not None:
                chunk.append(self._next_piece(chunk))
            size += len(chunk[-1])
        self._begun = self._pieces is not None
        return "".join(chunk).encode("ascii")

    def _begin(self, chunk: list[str]) -> bool:
        """Go on to the next message, if there is one."""
        message = self._next_message()
        if message is None:
            return False
        if isinstance(message, Shared):
            chunk.append(message.line)
        else:
            self._message = message
            self._pieces = pieces(message)
            self._mark = len(chunk)
        return True

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
