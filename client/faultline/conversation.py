# SPDX-License-Identifier: MIT
"""One conversation in QMP, without I/O: bytes in, replies and events out.

A reply is matched with its command by the id, so several commands may be on
their way.  The reply to a command that nobody waits for any more is dropped.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from faultline.errors import CommandError
from faultline.events import Event, Journal


@dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of a command: the value that it returned, or its error object."""

    value: Any = None
    error: Mapping[str, Any] | None = None

    def result(self, command: str) -> Any:
        """Return the value; raises CommandError for an error."""
        if self.error is not None:
            raise CommandError(command, self.error)
        return self.value


class NotQmp(Exception):
    """What a server has sent is not QMP."""


class Conversation:
    """The state of one connection.

    `greeting` is the server's first message, None until it has come.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal = journal or Journal()
        self.greeting: Mapping[str, Any] | None = None
        self._input = bytearray()
        self._ids = itertools.count()
        self._awaited: set[str] = set()
        self._replies: dict[str, Reply] = {}

    def command(self, name: str, arguments: Mapping[str, Any]) -> tuple[str, bytes]:
        """Return the id and the bytes of a command whose reply will be awaited."""
        key = f"faultline#{next(self._ids)}"
        self._awaited.add(key)
        message: dict[str, Any] = {"execute": name, "id": key}
        if arguments:
            message["arguments"] = arguments
        return key, json.dumps(message).encode() + b"\n"

    def reply(self, key: str) -> Reply | None:
        """Return the reply to the command with this id, once; None if it has not come."""
        return self._replies.pop(key, None)

    def forget(self, key: str) -> None:
        """Drop the reply to a command, when it comes."""
        self._awaited.discard(key)
        self._replies.pop(key, None)

    def feed(self, data: bytes) -> None:
        """Take bytes from the server; raises NotQmp if they are not QMP."""
        self._input += data
        # Both servers end a message with a line end.  QEMU's `pretty=on` has line ends inside
        # messages as well, so a line that is no message is the beginning of one.
        start = searched = 0
        while (end := self._input.find(b"\n", searched)) >= 0:
            line = bytes(self._input[start:end])
            searched = end + 1
            if line.strip():
                message = _parsed(line)
                if message is None:
                    continue
                self._take(message)
            start = searched
        del self._input[:start]

    def _take(self, message: Mapping[str, Any]) -> None:
        if "event" in message:
            self.journal.add(Event.of(message))
        elif "QMP" in message:
            self.greeting = message["QMP"]
        elif "return" in message or "error" in message:
            key = message.get("id")
            if key in self._awaited:
                self._awaited.remove(key)
                self._replies[key] = Reply(message.get("return"), message.get("error"))
        else:
            raise NotQmp


def _parsed(line: bytes) -> Mapping[str, Any] | None:
    """Return a message; None if `line` is the beginning of one.  Raises NotQmp."""
    if not line.lstrip().startswith(b"{"):
        raise NotQmp
    try:
        message = json.loads(line)
    except UnicodeDecodeError:
        raise NotQmp from None
    except ValueError:
        return None
    if not isinstance(message, dict):
        raise NotQmp
    return message
