# SPDX-License-Identifier: MIT
"""Guests: programs of qemu-utils, libnbd and fio that use a drive over NBD."""

from __future__ import annotations

import subprocess
from pathlib import Path

PATIENCE_S = 30  # no guest takes longer, so that a mistake does not hang the run


class Guest:
    """A program that runs; what it prints is kept."""

    def __init__(self, *argv: str | Path) -> None:
        self.name = " ".join(map(str, argv))
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def waits(self) -> bool:
        """Whether it runs, because its request has no answer."""
        return self.process.poll() is None

    def end(self) -> tuple[int, str]:
        """Wait for its end; the exit status and what it printed."""
        printed, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, printed

    def done(self) -> str:
        """Wait for its end, which has to be a success; what it printed."""
        status, printed = self.end()
        assert status == 0, f"{self.name}: status {status}: {printed}"
        return printed

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Guests:
    """Starts guests; `close` ends those that still run."""

    def __init__(self) -> None:
        self._guests: list[Guest] = []

    def run(self, *argv: str | Path) -> Guest:
        """Start any program."""
        self._guests.append(Guest(*argv))
        return self._guests[-1]

    def io(self, uri: str, *commands: str) -> Guest:
        """Run commands of qemu-io, such as ``write -P 5 1M 64k`` (bytes of 5), on a drive."""
        options = [word for command in commands for word in ("-c", command)]
        return self.run("qemu-io", "-f", "raw", *options, uri)

    def copy(self, image: str | Path, uri: str) -> Guest:
        """Copy a raw image to a drive."""
        return self.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, uri)

    def same(self, one: str | Path, other: str | Path, format: str = "raw") -> bool:
        """Return whether two images or drives have the same content; the second's is `format`."""
        status, printed = self.run(
            "qemu-img", "compare", "-f", "raw", "-F", format, one, other
        ).end()
        assert status in (0, 1), printed
        return status == 0

    def close(self) -> None:
        for guest in self._guests:
            guest.kill()
