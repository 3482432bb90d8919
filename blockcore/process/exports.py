# SPDX-License-Identifier: MIT
"""The exports that guests connect to, and the connections that are open."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence

from blockcore.bql.big_lock import BigLock
from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.recorded import opened
from blockcore.machine.machine import Machine
from blockcore.process.connection import Connection, is_writable
from blockcore.process.gathering import Gathering
from blockcore.process.log import logger
from blockcore.process.nbd_socket import NbdSocket, OpenSockets


class Exports:
    """The drives and clones of a machine as exports.

    `sockets` get those of the connections that are open; `control` is the control
    socket, whose clients are no guests.
    """

    def __init__(
        self,
        machine: Machine,
        lock: BigLock,
        sockets: OpenSockets,
        control: socket.socket | None,
        gathering: Gathering,
    ) -> None:
        self._machine = machine
        self._lock = lock
        self._sockets = sockets
        self._control = control
        self._gathering = gathering

    def described(self) -> list[tuple[str, str]]:
        """Return the name and the description of every export; descriptions are file names."""
        served = (*self._machine.backends, *self._machine.clones)
        return [(blk.export, _as_utf8(blk.root.filename)) for blk in served]

    def default(self) -> str:
        """Return the name of the default export: the first drive's, "" without any drive."""
        return self._machine.backends[0].export if self._machine.backends else ""

    def connect(
        self,
        export: str,
        readonly: bool,
        own_socket: Callable[[Sequence[NbdSocket]], NbdSocket | None] = lambda _: None,
        alive: Callable[[], bool] = lambda: True,
    ) -> Connection:
        """Return a new connection to an export; "" is the default export.

        `own_socket` tells which of several sockets is this one's, `alive` whether its
        client is there.  Raises OSError: ENOENT without such a drive, or by a fault rule.
        """
        machine = self._machine
        wanted = export or self.default()
        for blk in (*machine.backends, *machine.clones):
            if blk.export == wanted:
                break
        else:
            raise OSError(errno.ENOENT, f"there is no drive '{export}'")
        socket_ = own_socket(self._sockets.others(self._control))
        number = self._lock.run_in_thread(self._opened(blk, readonly, socket_), alive)
        return Connection(
            *(number, self._lock, blk, readonly, self._gathering),
            socket=socket_,
            recording=machine.recording,
        )

    async def _opened(
        self, blk: BlockBackend, readonly: bool, socket_: NbdSocket | None
    ) -> int:
        """Let a guest connect, and return the number of its connection."""
        # In one step: guests get their numbers in the order in which rules see them.
        machine = self._machine
        number = machine.connections_made = machine.connections_made + 1
        self._lock.asker.connection = number
        self._sockets[number] = socket_
        blk.connections.add(number)
        go = blk.connect(machine.find.shown_by(blk))
        recording = machine.recording
        try:
            if recording is None:
                await go
            else:
                await opened(go, recording, number, blk, is_writable(blk, readonly))
        except OSError as exc:
            self._tell_refusal(blk, number, exc)
            self._forget(number, blk)
            raise
        except BaseException:
            self._forget(number, blk)
            raise
        return number

    def _tell_refusal(self, blk: BlockBackend, number: int, error: OSError) -> None:
        """Log which rule refuses a connection: clients see ENOENT, as for a wrong name."""
        rule, reason = self._lock.asker.hit, errno.errorcode.get(error.errno or 0)
        said = {"rule": rule, "drive": blk.export, "connection": number, "errno": reason}
        self._lock.defer(lambda: logger.info("connection refused by a fault rule", **said))

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection that was closed."""
        with self._lock.region():
            self._forget(connection.number, connection.blk)
        connection.close()

    def _forget(self, number: int, blk: BlockBackend) -> None:
        del self._sockets[number]
        blk.disconnected(number)


def _as_utf8(name: str) -> str:
    """Return a file name as UTF-8, as NBD requires; other bytes become U+FFFD."""
    return os.fsencode(name).decode(errors="replace")
