# SPDX-License-Identifier: MIT
"""A session with a machine's control socket: how it is named, had, and lost.

The protocol is the `qemu.qmp` package's, so every QMP server will do, QEMU included.
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
"""An NBD socket, or a QEMU monitor that is taken, accepts a connection and then says nothing."""

socket_option = click.option(
    "-s",
    "--socket",
    "--control",
    "path",
    metavar="SOCKET",
    envvar="FAULTLINE_CONTROL",
    help="Control socket.  [default: $FAULTLINE_CONTROL]",
)


class ConnectionLost(click.ClickException):
    """The machine has ended, or has hung up, where there was something to come yet."""


def socket_path(option: str | None) -> str:
    """The path that was given; UsageError if none was."""
    if not option:
        raise click.UsageError("no control socket: use --socket or set FAULTLINE_CONTROL")
    return option


async def reply(
    client: QMPClient, path: str, command: str, arguments: Mapping[str, object] | None = None
) -> object:
    """The value `command` returns in a session.

    ClickException has the server's own words for an error reply; ConnectionLost
    when there is no reply to have.
    """
    try:
        return await client.execute(command, dict(arguments or {}))
    except ExecuteError as exc:
        raise click.ClickException(exc.error.error.desc) from exc
    except (ExecInterruptedError, StateError) as exc:
        raise ConnectionLost(f"{path}: closed before the reply came") from exc
    except QMPError as exc:
        raise click.ClickException(f"{path}: {exc}") from exc


async def execute(path: str, command: str, arguments: Mapping[str, object]) -> object:
    """The same in a session of its own."""
    client = QMPClient()
    async with session(client, path):
        return await reply(client, path, command, arguments)


@asynccontextmanager
async def session(client: QMPClient, path: str) -> AsyncIterator[None]:
    """A negotiated session with the server at `path`; ClickException if there is none to have."""
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
        # How it ends no longer matters: there was a reply, or there is an error already.
        with suppress(QMPError, OSError, EOFError):
            await client.disconnect()


async def disconnected(client: QMPClient) -> None:
    """Return when the session is over."""
    while client.runstate is Runstate.RUNNING:
        await client.runstate_changed()
