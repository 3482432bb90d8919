"""Real machines for end-to-end tests: nbdkit with the plugin, and small clients."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbd

TREE = Path(__file__).resolve().parent.parent
FAULTLINE = [sys.executable, "-c", "from blockcore.cli import main; main()"]

TIMEOUT_S = 60.0
"""No wait of a test lasts longer; none of them is expected to come near it."""


class QmpFailed(Exception):
    """An error reply; `error` is its object."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['class']}: {error['desc']}")
        self.error = error


class Qmp:
    """A control client that knows what a test wants: replies in order, events in order."""

    def __init__(self, path: str, negotiate: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(path)
        self._lines = self.socket.makefile("rb")
        self.events: list[dict[str, Any]] = []
        self.greeting = self.receive()
        if negotiate:
            self("qmp_capabilities")

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> dict[str, Any]:
        """The next message, whatever it is; EOFError when the server has hung up."""
        line = self._lines.readline()
        if not line:
            raise EOFError
        message: dict[str, Any] = json.loads(line)
        return message

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Run a command (`_` in argument names stands for `-`); events go to `events`."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self.execute(command, named)

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """The same with the arguments as they go on the wire."""
        self.send(json.dumps({"execute": command, "arguments": arguments or {}}).encode())
        while True:
            message = self.receive()
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpFailed(message["error"])
            else:
                return message["return"]

    def wait_event(self, name: str) -> dict[str, Any]:
        """The next event of that name, taking it and those before it from `events`."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if event["event"] == name:
                    return event
            message = self.receive()
            assert "event" in message, message
            self.events.append(message)

    def wait_for(self, condition: Callable[[], Any], query: str = "query-status") -> Any:
        """Ask `condition` again and again, with a round trip between, until it says yes."""
        deadline = _Deadline()
        while not (answer := condition()):
            deadline.check(query)
            self(query)
        return answer


class _Deadline:
    def __init__(self) -> None:
        self._left = 200_000

    def check(self, what: str) -> None:
        self._left -= 1
        assert self._left, f"waited in vain with {what}"


class Live:
    """A machine served by `faultline serve`, with its sockets in `directory`."""

    def __init__(self, directory: Path, *keys: str, options: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.nbd_socket = str(directory / "nbd.sock")
        self.control = str(directory / "qmp.sock")
        self.log = directory / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*FAULTLINE, "serve", "--nbd", self.nbd_socket, "--control", self.control]
                + [*options, *keys],
                cwd=directory,
                env={**os.environ, "PYTHONPATH": str(TREE)},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(TIMEOUT_S)
            raise AssertionError(f"did not start: {self.log.read_text()}")
        self.ready: dict[str, Any] = json.loads(line)

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        if self.process.stdout is not None:
            self.process.stdout.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def uri(self, export: str = "") -> str:
        return f"nbd+unix:///{export}?socket={self.nbd_socket}"

    def qmp(self) -> Qmp:
        return Qmp(self.control)

    @contextlib.contextmanager
    def guest(self, export: str = "") -> Iterator[nbd.NBD]:
        """A connected libnbd handle."""
        handle = nbd.NBD()
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        handle.connect_uri(self.uri(export))
        try:
            yield handle
        finally:
            with contextlib.suppress(nbd.Error):
                handle.shutdown()

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Tell it to end; its exit status."""
        self.process.send_signal(how)
        return self.process.wait(TIMEOUT_S)


def make_image(path: Path, size: int, pattern: int = 0) -> Path:
    """A raw image of `size` bytes, each of them `pattern`."""
    with path.open("wb") as file:
        if pattern:
            file.write(bytes([pattern]) * size)
        else:
            file.truncate(size)
    return path
