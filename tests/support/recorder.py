# SPDX-License-Identifier: MIT
"""Drives real QEMU through its qtest protocol, and writes down all that happens.

The machine's processor halts at its first instruction (the BIOS is all HLT);
the guest is this program, with a driver for a legacy virtio-blk device.
tests/golden/README.md describes the files.
"""

from __future__ import annotations

import functools
import json
import shlex
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blockcore.qapi.qemu import RELEASES
from replay import STALE, WRITTEN
from wire import Wire

QEMU = "/usr/bin/qemu-system-x86_64"
MACHINE = "-nodefaults -display none -no-user-config -m 16 -machine pc,accel=tcg -bios halt.bin"
SOCKETS = "-qtest unix:qtest.sock -qtest-log /dev/null -qmp unix:qmp.sock"
HALT = b"\xf4" * 65536

QUIET_S = 0.25
"""When nothing has happened for so long, nothing more is going to."""

TYPES = {"read": 0, "write": 1, "flush": 4, "discard": 11, "write_zeroes": 13}
STATUSES = {0: "OK", 1: "IOERR", 2: "UNSUPP"}
RANGES = ("discard", "write_zeroes")
"""Requests whose data is a description of sectors rather than their contents."""


@dataclass(frozen=True)
class Scenario:
    """What is to be recorded: QEMU's options, what they need, and what happens then."""

    run: Callable[[Recorder], None]
    options: str
    setup: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)


@functools.cache
def installed_release() -> str:
    """The QEMU that is here, as the key `qemu` names it; AssertionError if it is neither."""
    shown = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    release = ".".join(shown.removeprefix("QEMU emulator version ").split(".")[:2])
    assert release in RELEASES, shown
    return release


class Qtest:
    """QEMU's qtest protocol: ports and memory of the guest."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("r")

    def __call__(self, *words: Any) -> int:
        """Send a command; the number that it answers with, if any."""
        self._connection.sendall((" ".join(map(str, words)) + "\n").encode())
        status, *values = self._lines.readline().split()
        assert status == "OK", (words, status, values)
        return int(values[0], 16) if values else 0

    def write(self, address: int, data: bytes) -> None:
        self("write", address, len(data), "0x" + data.hex())

    def read(self, address: int, size: int) -> bytes:
        return self("read", address, size).to_bytes(size, "big")

    def close(self) -> None:
        self._lines.close()
        self._connection.close()


class VirtioBlk:
    """A driver for the legacy virtio-blk-pci device in slot 4, with the one queue it has."""

    PORT = 0xC000
    RING, RING_SIZE = 0x100000, 0x10000
    ALIGNMENT = 4096
    REQUESTS, REQUEST_SIZE = 0x200000, 0x20000
    FEATURES = 1 << 9 | 1 << 11 | 1 << 13 | 1 << 14
    """FLUSH, CONFIG_WCE (without it the device would turn the write cache on), DISCARD,
    WRITE_ZEROES."""

    def __init__(self, qtest: Qtest) -> None:
        self._qtest = qtest
        self.reset()

    def reset(self) -> None:
        """What a driver does when the machine starts; requests of before are forgotten."""
        for register, value in ((0x10, self.PORT), (0x04, 7)):
            self._qtest("outl", 0xCF8, 0x80000000 | 4 << 11 | register)
            self._qtest("outl", 0xCFC, value)
        self._qtest("memset", self.RING, self.RING_SIZE, 0)
        for status in (0, 1, 3):
            self._qtest("outb", self.PORT + 18, status)
        self._qtest("outl", self.PORT + 4, self._qtest("inl", self.PORT) & self.FEATURES)
        self._qtest("outw", self.PORT + 14, 0)
        # The device says how long its queue is: 256 in QEMU 7.2, 1024 in 10.0.
        length = self._qtest("inw", self.PORT + 12)
        self._avail = self.RING + 16 * length
        self._used = -(-(self._avail + 6 + 2 * length) // self.ALIGNMENT) * self.ALIGNMENT
        assert self._used + 6 + 8 * length <= self.RING + self.RING_SIZE
        self._qtest("outl", self.PORT + 8, self.RING >> 12)
        self._qtest("outb", self.PORT + 18, 7)
        self._offered = self._seen = 0
        self._heads: dict[int, int] = {}

    def queue(self, tag: int, kind: str, sector: int, nbytes: int) -> None:
        """Put a request into the ring; the device looks at it after `kick`."""
        base = self.REQUESTS + tag * self.REQUEST_SIZE
        place = 0 if kind in RANGES else sector
        self._qtest.write(base, struct.pack("<IIQ", TYPES[kind], 0, place))
        self._qtest("memset", base + 16, 1, 0xFF)
        if kind in RANGES:
            self._qtest.write(base + 512, struct.pack("<QII", sector, nbytes // 512, 0))
            nbytes = 16
        elif nbytes:
            self._qtest("memset", base + 512, nbytes, STALE if kind == "read" else WRITTEN)
        writable = 2
        parts = [(base, 16, 0), (base + 16, 1, writable)]
        if nbytes:
            parts.insert(1, (base + 512, nbytes, writable if kind == "read" else 0))
        head = tag * 3
        for index, (address, size, flags) in enumerate(parts, head):
            more = index < head + len(parts) - 1
            entry = struct.pack("<QIHH", address, size, flags | more, index + 1 if more else 0)
            self._qtest.write(self.RING + 16 * index, entry)
        self._qtest.write(self._avail + 4 + 2 * self._offered, struct.pack("<H", head))
        self._heads[head] = tag
        self._offered += 1

    def kick(self) -> None:
        self._qtest.write(self._avail + 2, struct.pack("<H", self._offered))
        self._qtest("outw", self.PORT + 16, 0)

    def completed(self) -> list[int]:
        """Tags of the requests that have ended since the last time."""
        (used,) = struct.unpack("<H", self._qtest.read(self._used + 2, 2))
        new = range(self._seen, used)
        self._seen = used
        entries = [self._qtest.read(self._used + 4 + 8 * index, 4) for index in new]
        return [self._heads[int.from_bytes(entry, "little")] for entry in entries]

    def status(self, tag: int) -> str:
        return STATUSES[self._qtest.read(self.REQUESTS + tag * self.REQUEST_SIZE + 16, 1)[0]]

    def data(self, tag: int, nbytes: int) -> str:
        found = set(self._qtest.read(self.REQUESTS + tag * self.REQUEST_SIZE + 512, nbytes))
        return f"0x{found.pop():02x} x{nbytes}" if len(found) == 1 else "mixed"


class Recorder:
    """A running QEMU, and what scenarios do to it: everything is written down."""

    def __init__(self, wire: Wire, qtest: Qtest) -> None:
        self.entries: list[dict[str, Any]] = []
        self._start = time.monotonic()
        self._wire = wire
        self._commands = self._tags = 0
        self._pending: dict[int, dict[str, Any]] = {}
        self._receive()
        self.qmp("qmp_capabilities")
        self.guest = VirtioBlk(qtest)

    def qmp(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run a command; its reply."""
        self._commands += 1
        message: dict[str, Any] = {"execute": command, "id": self._commands}
        if arguments:
            message["arguments"] = arguments
        self._note("C>S", "command", msg=message)
        self._wire.send(json.dumps(message).encode())
        while "event" in (reply := self._receive()):
            pass
        return reply

    def queue(self, request: str, sector: int = 0, nbytes: int = 512) -> int:
        """Prepare a request for the next `kick`; its tag."""
        tag = self._tags
        self._tags += 1
        what = {"tag": tag, "request": request, "sector": sector}
        self._act("queue", **what, bytes=nbytes)
        self.guest.queue(tag, request, sector, nbytes)
        self._pending[tag] = {**what, "bytes": nbytes}
        return tag

    def kick(self) -> None:
        self._act("kick")
        self.guest.kick()

    def io(self, *requests: tuple[Any, ...]) -> None:
        """Queue these, kick, and wait until no more happens."""
        for request in requests:
            self.queue(*request)
        self.kick()
        self.settle()

    def settle(self) -> None:
        """Wait until no more happens, and write down which requests are pending."""
        self._follow(QUIET_S)
        self._act("poll", still_pending=sorted(self._pending))

    def reset(self) -> None:
        """Start the guest's driver anew, after a system_reset."""
        self._act("reset", dropped=sorted(self._pending))
        self._pending.clear()
        self.guest.reset()

    def quit(self) -> None:
        self.qmp("quit")

    def _follow(self, quiet_s: float) -> None:
        last = time.monotonic()
        while time.monotonic() - last < quiet_s:
            moved = self._wire.has_message or self._wire.arrives(0.02)
            if moved:
                self._receive()
            for tag in self.guest.completed():
                moved = True
                what = self._pending.pop(tag)
                nbytes = what.pop("bytes")
                if what["request"] == "read":
                    what["data"] = self.guest.data(tag, nbytes)
                self._act("completion", **what, status=self.guest.status(tag))
            last = time.monotonic() if moved else last

    def _receive(self) -> dict[str, Any]:
        message = self._wire.receive()
        kind = "greeting" if "QMP" in message else "event" if "event" in message else "response"
        self._note("S>C", kind, msg=message)
        return message

    def _act(self, action: str, **more: Any) -> None:
        self._note("guest", "guest", action=action, **more)

    def _note(self, direction: str, kind: str, **more: Any) -> None:
        seconds = round(time.monotonic() - self._start, 4)
        self.entries.append({"t": seconds, "dir": direction, "kind": kind, **more})


def record(name: str, scenario: Scenario) -> list[dict[str, Any]]:
    """Run the scenario; the lines of its recording."""
    argv = [QEMU, *shlex.split(f"{MACHINE} {scenario.options} {SOCKETS}")]
    with tempfile.TemporaryDirectory() as directory:
        for path, text in scenario.files.items():
            (Path(directory) / path).write_text(text)
        (Path(directory) / "halt.bin").write_bytes(HALT)
        for command in scenario.setup:
            subprocess.run(shlex.split(command), cwd=directory, check=True, capture_output=True)
        listeners = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for listener, path in zip(listeners, ("qtest.sock", "qmp.sock"), strict=True):
            listener.bind(f"{directory}/{path}")
            listener.listen()
            listener.settimeout(10)
        with subprocess.Popen(argv, cwd=directory) as process:
            qtest, qmp = (listener.accept()[0] for listener in listeners)
            recorder = Recorder(Wire(qmp), wrapped := Qtest(qtest))
            scenario.run(recorder)
            recorder.quit()
            wrapped.close()
            qmp.close()
            status = process.wait(10)
    version = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True)
    meta = {
        "scenario": name,
        "description": " ".join((scenario.run.__doc__ or "").split()),
        "qemu": version.stdout.splitlines()[0].removeprefix("QEMU emulator version "),
        "setup": list(scenario.setup),
        "files": scenario.files,
        "argv": argv,
        "exit": status,
    }
    return [{"meta": meta}, *recorder.entries]
