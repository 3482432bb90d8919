# SPDX-License-Identifier: MIT
"""A connection to a control socket, for tests of what is on it: bytes, ids, the negotiation.

And for those that leave a command without an answer, or go before it comes.
"""

from __future__ import annotations

import json
import select
import socket
from typing import Any

TIMEOUT_S = 60.0
"""No wait of a test lasts longer; none of them is expected to come near it."""


class Wire:
    """Bytes there, messages back; the first of them is the greeting.  All other tests use `Qmp`."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._rest = b""

    @classmethod
    def connect(cls, path: str) -> Wire:
        """Return a connection on which nothing has been said or read."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)
        return cls(connection)

    @classmethod
    def negotiated(cls, path: str) -> Wire:
        """Return a connection that is ready for commands."""
        wire = cls.connect(path)
        wire.receive()
        wire.command("qmp_capabilities")
        assert wire.receive() == {"return": {}}
        return wire

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def command(self, name: str, **arguments: Any) -> None:
        """Send a command (`_` in argument names stands for `-`), and do not wait for its answer."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.send(json.dumps({"execute": name, "arguments": named}).encode())

    def arrive(self) -> bool:
        """Take what comes next, a message or a part of one; False when the server has hung up."""
        data = self.socket.recv(1 << 16)
        self._rest += data
        return bool(data)

    def arrives(self, timeout_s: float) -> bool:
        """Whether something comes in that time, or the server hangs up."""
        return bool(select.select([self.socket], [], [], timeout_s)[0])

    @property
    def has_message(self) -> bool:
        """Whether a message has arrived that has not been received."""
        return b"\n" in self._rest

    def receive(self) -> dict[str, Any]:
        """Return the next message, whatever it is; EOFError when the server has hung up."""
        while not self.has_message:
            if not self.arrive():
                raise EOFError
        line, _, self._rest = self._rest.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def reply(self) -> dict[str, Any]:
        """Return the next message that is no event."""
        while "event" in (message := self.receive()):
            pass
        return message

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
