"""`faultline qmp` and `faultline events`: the control socket as it is."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import click
from qemu.qmp import EventListener, Message, QMPClient

from blockcore.cli.arguments import parse_arguments
from blockcore.cli.session import disconnected, execute, session, socket_option, socket_path


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@socket_option
@click.argument("command")
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
def qmp(path: str | None, command: str, words: tuple[str, ...]) -> None:
    """Send one QMP command and print what it returns, as JSON.

    A VALUE that is JSON is taken as such, anything else is a string; a dotted
    KEY is a member of a nested object.  An error reply is printed on stderr
    and makes the exit status 1.

    \b
    Examples:
      faultline qmp -s m0.qmp query-status
      export FAULTLINE_CONTROL=m0.qmp
      faultline qmp x-fault-add node-name=vda iotype=write errno=ENOSPC
      faultline qmp block_resize device=vda size=2147483648
      faultline qmp blockdev-add node-name=n1 driver=raw file.driver=null-co
      faultline qmp cont
    """
    where, arguments = socket_path(path), parse_arguments(words)
    click.echo(json.dumps(asyncio.run(execute(where, command, arguments)), indent=2))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@socket_option
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="End after N events."
)
@click.argument("names", metavar="[NAME]...", nargs=-1)
def events(path: str | None, count: int | None, names: tuple[str, ...]) -> None:
    """Follow the events, one line of JSON each, until the machine ends.

    With NAMEs only those.  Interrupt it, or close the pipe it writes to, to
    end it earlier.  A line on stderr tells when it is connected; no event
    after that is missed.

    \b
    Examples:
      faultline events -s m0.qmp
      faultline events -s m0.qmp --count 1 STOP
      faultline events -s m0.qmp BLOCK_IO_ERROR | jq .data.reason
    """
    where = socket_path(path)
    with suppress(KeyboardInterrupt):
        asyncio.run(follow(where, EventPrinter(names, count)))


class EventPrinter(EventListener):
    """Writes every accepted event to stdout at once.

    The listener it extends keeps a history of all events for ever, which a
    program that follows a machine for weeks cannot afford.
    """

    def __init__(self, names: tuple[str, ...], count: int | None) -> None:
        super().__init__(names)
        self.left = count
        self.finished = asyncio.Event()

    async def put(self, event: Message) -> None:
        if self.finished.is_set() or not self.accept(event):
            return
        try:
            sys.stdout.write(json.dumps(dict(event)) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            self.reader_gone()
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.finished.set()

    def reader_gone(self) -> None:
        """Nobody reads stdout any more: finish, without a complaint when Python flushes it."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        self.finished.set()


async def follow(path: str, printer: EventPrinter) -> None:
    """Give `printer` every event until it is finished or the server closes the connection."""
    client = QMPClient()
    # What is not printed is not kept either (see EventPrinter).
    client.events.event_filter = lambda event: False
    client.register_listener(printer)
    async with session(client, path), _pipe_watch(printer.reader_gone):
        click.echo(f"faultline: following {path}", err=True)
        ends = {
            asyncio.create_task(printer.finished.wait()),
            asyncio.create_task(disconnected(client)),
        }
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in ends:
            task.cancel()


@asynccontextmanager
async def _pipe_watch(gone: Callable[[], None]) -> AsyncIterator[None]:
    """Call `gone` when stdout is a pipe and its reader closes it, though nothing is written.

    epoll reports the closed reader as an error, which asyncio passes to a
    reader callback; a pipe's write end is never readable otherwise.
    """
    if not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode):
        yield
        return
    loop = asyncio.get_running_loop()
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
