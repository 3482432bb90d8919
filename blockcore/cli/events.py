# SPDX-License-Identifier: MIT
"""`faultline events`: the events of a machine, as they come."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import click

from blockcore.cli.completions import events as event_names
from blockcore.cli.connection import Control, connected, control_options, disconnected
from blockcore.cli.event_names import separated, unknown
from blockcore.cli.once import Command
from blockcore.cli.output import abandon, tell
from blockcore.cli.schema import Schema
from faultline.aio import Machine
from faultline.events import Event


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@control_options
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="End after N events."
)
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=event_names)
def events(control: Control, count: int | None, names: tuple[str, ...]) -> None:
    """Print events, one line of JSON each, until the machine ends.

    With NAMEs, only events of these names.  To end it earlier, interrupt it or
    close the pipe it writes to.  A line on stderr says when it is connected; no
    event after that is missed.  The exit status is 1 if the machine ends before
    N events have come, or if the connection is lost without SHUTDOWN.

    \b
    Examples:
      faultline events -s m0.qmp
      faultline events -s m0.qmp --count 1 --timeout 10 STOP
      faultline events -s m0.qmp BLOCK_IO_ERROR | jq .data.reason
    """
    where = control.path
    if (wrong := separated(names)) is not None:
        raise click.UsageError(wrong)
    printer = EventPrinter(names, count)
    try:
        work = follow(where, printer, f"following {where}", printer.begin)
        control.limited(work, printer.in_vain)
    except KeyboardInterrupt:
        if printer.left:
            raise


class EventPrinter:
    """A listener that writes every accepted event to stdout at once.

    `left` is the number of events to come, None for any number; `error` is why
    stdout could not be written; `said_shutdown` is whether SHUTDOWN has come.
    """

    def __init__(self, names: tuple[str, ...], count: int | None) -> None:
        self.names = frozenset(names)
        self.count = self.left = count
        self.finished = asyncio.Event()
        self.error: OSError | None = None
        self.said_shutdown = False

    def hear(self, event: Event) -> None:
        """Take an event of the machine."""
        self.said_shutdown |= event.name == "SHUTDOWN"
        if not self.finished.is_set() and self.accepts(event):
            self.show(event.message())

    def accepts(self, event: Event) -> bool:
        """Return whether an event is to be shown."""
        return not self.names or event.name in self.names

    def show(self, message: Mapping[str, object]) -> None:
        """Print a line of JSON, and count it."""
        try:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            self.reader_gone()
        except OSError as exc:
            self.error = exc
            self.finished.set()
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.finished.set()

    async def begin(self, machine: Machine) -> None:
        """Raise UsageError for the name of an event that the server does not have."""
        if self.names:
            schema = await machine.execute("query-qmp-schema")
            if (wrong := unknown(sorted(self.names), Schema(schema).events)) is not None:
                raise click.UsageError(wrong)

    def reader_gone(self) -> None:
        """Finish, because stdout has no reader; Python's last flush of it must not fail."""
        abandon(sys.stdout)
        self.finished.set()

    def missing(self) -> str | None:
        """Return what is wrong with the end of the session, as text; None if nothing is."""
        if self.error is not None or self.finished.is_set():
            return None
        if self.count is not None:
            return f"the machine has ended after {self._came()} of {self.count} events"
        return None if self.said_shutdown else "the connection was lost, without SHUTDOWN"

    def in_vain(self) -> str:
        """Return what has not come, as text."""
        if self.count is None:
            return "the machine has not ended"
        return f"only {self._came()} of {self.count} events came"

    def _came(self) -> int:
        return (self.count or 0) - (self.left or 0)


async def follow(
    path: str, printer: EventPrinter, line: str, begin: Callable[[Machine], Awaitable[None]]
) -> None:
    """Pass every event to `printer` until it is finished or the server closes the connection.

    `begin` is called first; then `line` says on stderr what is being done.  Raises
    what `begin` raises, ClickException if the server ends too early, OSError if
    stdout cannot be written.
    """
    async with connected(path, printer.hear) as machine:
        await begin(machine)
        if not printer.finished.is_set():
            tell(f"faultline: {line}")
            await _finished(machine, printer)
    if printer.error is not None:
        raise printer.error
    if (missing := printer.missing()) is not None:
        raise click.ClickException(f"{path}: {missing}")


async def _finished(machine: Machine, printer: EventPrinter) -> None:
    """Wait until the printer is finished, or the server has closed the connection."""
    async with _pipe_watch(printer.reader_gone):
        ends = {
            asyncio.create_task(printer.finished.wait()),
            asyncio.create_task(disconnected(machine)),
        }
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in ends:
            task.cancel()


@asynccontextmanager
async def _pipe_watch(gone: Callable[[], None]) -> AsyncIterator[None]:
    """Call `gone` during the body when the reader of stdout, if it is a pipe, closes it.

    Without this, only the next event would show that: writing it would fail.
    epoll reports the closed pipe as an error, and asyncio calls the reader's
    callback for errors.  The write end of a pipe is never readable otherwise.
    """
    if not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
        yield
        return
    loop = asyncio.get_running_loop()
    # A copy: `abandon` replaces what descriptor 1 is.
    fd = os.dup(sys.stdout.fileno())

    def closed() -> None:
        loop.remove_reader(fd)
        gone()

    loop.add_reader(fd, closed)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        os.close(fd)
