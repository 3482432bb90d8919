# SPDX-License-Identifier: MIT
"""A session with the control socket of a machine, by the `qemu.qmp` package.

Every QMP server will do, QEMU included.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import click
from qemu.qmp import (
    ConnectError,
    ExecInterruptedError,
    ExecuteError,
    QMPClient,
    QMPError,
    Runstate,
    StateError,
)

GREETING_TIMEOUT_S = 5.0
"""How long to wait for the greeting, in seconds.

A socket of NBD, or of a QEMU monitor that has a client already, accepts a
connection and then sends nothing.
"""

socket_option = click.option(
    "-s",
    "--socket",
    "--control",
    "path",
    metavar="SOCKET",
    envvar="FAULTLINE_CONTROL",
    help="Control socket.  [default: $FAULTLINE_CONTROL]",
)


class ErrorReply(click.ClickException):
    """The error for an error reply; its message is the server's."""


class ConnectionLost(click.ClickException):
    """The error for a session that the machine has ended before a reply came."""


def socket_path(option: str | None) -> str:
    """Return the path of the control socket; raises UsageError if none was given."""
    if not option:
        raise click.UsageError("no control socket: use --socket or set FAULTLINE_CONTROL")
    return option


async def reply(
    client: QMPClient, path: str, command: str, arguments: Mapping[str, object] | None = None
) -> object:
    """Run a command in a session, and return its value.

    Raises ErrorReply with the server's own words, and ConnectionLost if there is no
    reply.
    """
    try:
        return await client.execute(command, dict(arguments or {}))
    except ExecuteError as exc:
        raise ErrorReply(exc.error.error.desc) from exc
    except (ExecInterruptedError, StateError) as exc:
        raise ConnectionLost(f"{path}: closed before the reply came") from exc
    except QMPError as exc:
        raise click.ClickException(f"{path}: {exc}") from exc


async def execute(path: str, command: str, arguments: Mapping[str, object]) -> object:
    """Run a command in a session of its own, and return its value; raises as `reply` does."""
    client = QMPClient()
    async with session(client, path):
        return await reply(client, path, command, arguments)


@asynccontextmanager
async def session(client: QMPClient, path: str) -> AsyncIterator[None]:
    """Connect and negotiate with the server at `path` for the body; disconnect after it.

    Raises ClickException if there is no QMP server.
    """
    try:
        await asyncio.wait_for(client.connect(path), GREETING_TIMEOUT_S)
    except TimeoutError as exc:
        raise click.ClickException(
            f"{path}: no QMP greeting within {GREETING_TIMEOUT_S:g} s, is it a control socket?"
        ) from exc
    except ConnectError as exc:
        cause = exc.exc
        if isinstance(cause, ConnectionRefusedError) and not Path(path).is_socket():
            raise click.ClickException(f"{path}: is not a socket") from exc
        if isinstance(cause, OSError):
            raise click.ClickException(f"{path}: {cause.strerror or cause}") from exc
        raise click.ClickException(f"{path}: does not speak QMP") from exc
    try:
        yield
    finally:
        # Errors of the end no longer matter: there was a reply, or another error is under way.
        with suppress(QMPError, OSError, EOFError):
            await client.disconnect()


async def disconnected(client: QMPClient) -> None:
    """Wait until the session is over."""
    while client.runstate is Runstate.RUNNING:
        await client.runstate_changed()
