# SPDX-License-Identifier: MIT
"""The start of nbdkit: in this process, or in a child of it.

nbdkit takes the sockets that listen already by systemd's protocol: they have the
numbers from 3 on, and LISTEN_PID is the process that takes them (sd_listen_fds).
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import field

import click

from blockcore.qapi.record import dataclass

FIRST = 3
"""The number of the first socket (SD_LISTEN_FDS_START)."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A program that is about to be started, and the descriptors that it gets.

    `sockets` are passed by systemd's protocol, `descriptors` as numbers in
    environment variables of these names, and `lock` only to be kept open.
    """

    argv: list[str]
    env: Mapping[str, str]
    sockets: Sequence[socket.socket] = ()
    descriptors: dict[str, int] = field(default_factory=dict)
    lock: int | None = None

    def pass_on(self, variable: str, descriptor: int | None) -> None:
        """Pass a descriptor, as a number in that variable; nothing for None."""
        if descriptor is not None:
            self.descriptors[variable] = descriptor

    def become(self) -> None:
        """Replace this process by the program; returns only by raising ClickException."""
        env = {**self.env, **self._pass(), "FAULTLINE_PARENT": str(os.getppid())}
        if self.sockets:
            env |= {"LISTEN_FDS": str(len(self.sockets)), "LISTEN_PID": str(os.getpid())}
        try:
            os.execve(self.argv[0], self.argv, env)
        except OSError as exc:
            raise click.ClickException(f"nbdkit: {exc.strerror}") from exc

    def close(self) -> None:
        """Close all descriptors, of which a child has its own by now."""
        for each in self.sockets:
            each.close()
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        if self.lock is not None:
            os.close(self.lock)

    def _pass(self) -> dict[str, str]:
        """Give all descriptors their numbers, and let the program inherit them.

        What this process has inherited under the number of a socket is kept under
        another one: a lock, for example, is held by whoever has its descriptor.
        Returns the variables of `descriptors`.
        """
        end = FIRST + len(self.sockets)
        if self.lock is not None:
            fcntl.fcntl(self.lock, fcntl.F_DUPFD, end)
        variables = {
            name: str(fcntl.fcntl(descriptor, fcntl.F_DUPFD, end))
            for name, descriptor in self.descriptors.items()
        }
        sources = [
            fcntl.fcntl(each.fileno(), fcntl.F_DUPFD_CLOEXEC, end) for each in self.sockets
        ]
        for number, source in enumerate(sources, FIRST):
            with suppress(OSError):
                if os.get_inheritable(number):
                    fcntl.fcntl(number, fcntl.F_DUPFD, end)
            os.dup2(source, number)
        return variables
