# SPDX-License-Identifier: MIT
"""The messages for one client, as bytes in chunks of limited size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from blockcore.qapi.json.writer import Shared, at_once, pieces

CHUNK: Final = 16 << 10
"""Bytes after which a chunk is complete.

A larger chunk would let other clients wait longer, a smaller one costs more calls.
"""

CHUNK_PIECES: Final = 500
"""Pieces of text after which a chunk is complete, however small they are."""

Message = dict[str, Any] | Shared


class Broken(Exception):
    """A message that cannot be encoded, of which the client already has the beginning.

    The cause is the exception of the encoder.  The connection is of no more use.
    """


class Output:
    """The encoder of one client's messages.

    `next_message` returns the next message, or None.  `replacement(message,
    error)` returns the message to send in place of one that cannot be encoded.
    """

    def __init__(
        self,
        next_message: Callable[[], Message | None],
        replacement: Callable[[dict[str, Any], Exception], dict[str, Any]],
    ) -> None:
        self.replies = 0
        """Bytes of replies so far, without events; the host may lower it."""
        self.in_message = False
        """Whether `take` has returned a part of a message whose rest follows."""
        self._next_message = next_message
        self._replacement = replacement
        self._message: dict[str, Any] = {}
        self._pieces: Iterator[str] | None = None
        self._begun = False
        self._mark = 0

    def take(self) -> bytes:
        """Return the next bytes to send, or b"" if there is no message.

        Raises `Broken`.
        """
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
        """Begin a message; return all of it if it is short, else ""."""
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
        """Return the next piece of the message that has begun, or its end of line.

        If the message cannot be encoded and nothing of it has been sent, its
        pieces are taken out of `chunk` again, and its replacement begins.
        """
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
