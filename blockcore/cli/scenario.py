# SPDX-License-Identifier: MIT
"""`faultline scenario`: play a file's timeline beside a command, and tell what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from blockcore.cli.connection import Control, Duration
from blockcore.cli.once import BEHIND, CommandWithRest
from blockcore.cli.scenario_keys import ScenarioKeys
from blockcore.cli.scenario_run import Played, Run
from blockcore.qapi.nearest import either
from faultline.errors import FaultlineError
from faultline.scenario import shipped
from faultline.scenario.steps import Scenario

WHICH = "which scenario? 'faultline scenario --list' lists those that are shipped"


class CommandWithBench(CommandWithRest):
    """`scenario`, with the command that is tested behind ``--``."""

    rest = "COMMAND"


def _files(ctx: click.Context, param: click.Parameter, typed: str) -> list[CompletionItem]:
    """Complete the name of a scenario that is shipped, or of a file."""
    found = [CompletionItem(name) for name in shipped.names() if name.startswith(typed)]
    return found or [CompletionItem(typed, type="file")]


@click.command(cls=CommandWithBench, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", required=False, shell_complete=_files)
@click.option("--check", is_flag=True, help="Check the file, and start nothing.")
@click.option("--list", "listing", is_flag=True, help="List the scenarios that are shipped.")
@click.option("--show", is_flag=True, help="Print the file, such as one that is shipped.")
@click.option(
    "--set",
    "variables",
    metavar="NAME=VALUE",
    multiple=True,
    help="A variable of the file; may be repeated.",
)
@click.option(
    "--service", is_flag=True, help="COMMAND stays until the steps are done, and is ended then."
)
@click.option(
    "-s",
    "--socket",
    metavar="SOCKET",
    shell_complete=lambda ctx, param, typed: [CompletionItem(typed, type="file")],
    help="Play it on the machine with that control socket, instead of one of its own.",
)
@click.option("--nbd", metavar="SOCKET", help="Unix socket of the NBD server.")
@click.option("--control", metavar="SOCKET", help="Unix socket for QMP.")
@click.option(
    "--timeout",
    type=Duration(),
    metavar="SECONDS",
    help="Give up after so long, with status 124.",
)
def scenario(
    file: str | None,
    *,
    check: bool,
    listing: bool,
    show: bool,
    variables: tuple[str, ...],
    service: bool,
    socket: str | None,
    nbd: str | None,
    control: str | None,
    timeout: float | None,
) -> int:
    """Play the scenario FILE, or one that is shipped, beside COMMAND.

    It starts the machine that the file describes, runs COMMAND with its addresses
    in the environment, as `serve --run` does, plays the steps of the file, and ends
    when both have ended.  The exit status is 0 if all came as the file says and
    COMMAND succeeded; else stderr says which step was waited for, and what came
    instead.  Without COMMAND only the steps are played, for guests that come by
    themselves: then the addresses are printed, as by `serve`.

    \b
    Examples:
      faultline scenario --list
      faultline scenario --check late.yaml
      faultline scenario late.yaml -- pytest tests/test_full.py
      faultline scenario late-extension --set size=1G --service -- ./my-manager
      faultline scenario storage-back --nbd m0.nbd --control m0.qmp
    """
    context = click.get_current_context()
    command = context.meta[BEHIND]
    _refuse_together(check, listing, show, bool(command), socket, nbd or control)
    if service and not command:
        raise click.UsageError("--service needs a COMMAND")
    if listing:
        _list()
        return 0
    if file is None:
        raise click.UsageError(WHICH)
    path = _found(file)
    if show:
        click.echo(_text(path), nl=False)
        return 0
    given = _given(variables)
    read = _read(path, given, "/scratch")
    keys = ScenarioKeys.of(read)
    if socket is None:
        keys.check()
    if check:
        click.echo(f"{path}: {_counted(read)}")
        return 0
    run = Run(
        read=lambda directory: _read(path, given, directory),
        command=command,
        service=service,
        socket=None if socket is None else Control(socket).path,
        nbd=nbd,
        control=control,
        timeout=timeout,
    )
    played: Played = asyncio.run(run.play())
    click.echo(played.report, err=True)
    return played.status


def _refuse_together(
    check: bool, listing: bool, show: bool, command: bool, socket: str | None, own: str | None
) -> None:
    """Raise UsageError for options that make no sense together."""
    alone = {"--check": check, "--list": listing, "--show": show}
    named = [name for name, given in alone.items() if given]
    if len(named) > 1:
        raise click.UsageError(f"{named[0]} and {named[1]} exclude each other")
    if named and command:
        raise click.UsageError(f"{named[0]} runs no COMMAND")
    if socket is not None and own is not None:
        raise click.UsageError("--socket names a machine that has its sockets already")


def _list() -> None:
    names = shipped.names()
    width = max(map(len, names))
    for name in names:
        read = _read(shipped.find(name), {}, "/scratch")
        click.echo(f"{name.ljust(width)}  {read.about}")


def _found(file: str) -> Path:
    try:
        return shipped.find(file)
    except FaultlineError as exc:
        raise click.ClickException(str(exc)) from exc


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise click.ClickException(f"{path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise click.ClickException(f"{path}: it is no text in UTF-8") from exc


def _read(path: Path, given: dict[str, str], directory: str) -> Scenario:
    """Return the scenario of a file; raises ClickException."""
    reading = import_module("faultline.scenario.reading")
    try:
        read: Scenario = reading.read(_text(path), str(path), given, directory)
    except FaultlineError as exc:
        raise click.ClickException(str(exc)) from exc
    return read


def _given(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise click.UsageError(f"'{word}' is not NAME=VALUE")
        if name in found:
            raise click.UsageError(f"'{name}' is set twice")
        found[name] = value
    return found


def _counted(scenario: Scenario) -> str:
    """Return a text with how much there is in a scenario."""
    steps = len(scenario.steps)
    parts = [f"{steps} step{'' if steps == 1 else 's'}"]
    if scenario.variables:
        parts.append(f"variables {either([*scenario.variables]).replace(' or ', ' and ')}")
    return ", ".join(parts)
