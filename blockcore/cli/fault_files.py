# SPDX-License-Identifier: MIT
"""`faultline fault load`, `save` and `import`: rules of files, and of other tools' languages."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import click

from blockcore.cli.completions import named
from blockcore.cli.connection import Control, ErrorReply, control_options
from blockcore.cli.once import Command
from blockcore.cli.qmp import Ask, in_session
from blockcore.process import hints
from faultline.presets import LANGUAGES, translate
from faultline.rule_lines import armed_line, lines, located

STDIN = "-"

LENGTH_MAX = 16 << 20
"""The largest text, in characters: about 200,000 rules."""


@click.command(cls=Command)
@control_options
@click.argument("file", metavar="FILE")
def load(control: Control, file: str) -> None:
    """Add the rules of a file: one on each line, as behind fault=, or as a JSON object.

    Blank lines and those that begin with # are left out.  All rules are added, or
    none if one is wrong.  Prints their ids.  - is standard input.

    \b
    Examples:
      faultline fault load rules.faults
      faultline fault save | grep iotype=read | faultline fault load -s m1.qmp -
    """
    text, name = _text(file), "standard input" if file == STDIN else file
    _print(in_session(control, lambda ask: _added(ask, text, name)))


@click.command(cls=Command)
@control_options
@click.argument("file", required=False)
def save(control: Control, file: str | None) -> None:
    """Write all rules to FILE, or print them, so that load adds them again.

    A rule is saved as it was made: with no request seen, and none hit.

    \b
    Examples:
      faultline fault save rules.faults
      faultline fault save
    """
    rules = in_session(control, lambda ask: ask("x-query-faults", {}))
    text = lines(map(armed_line, rules))
    if file in (None, STDIN):
        click.echo(text, nl=False)
        return
    assert file is not None
    try:
        with open(file, "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as exc:
        raise click.ClickException(f"{file}: {exc.strerror}") from exc


@click.command(name="import", cls=Command)
@control_options
@click.option(
    "--drive",
    metavar="DRIVE",
    required=True,
    shell_complete=named("drives"),
    help="The drive or node that gets the rules.",
)
@click.option("--file", metavar="FILE", help="Read TEXT from a file; - is standard input.")
@click.option("--print", "is_printed", is_flag=True, help="Print the rules, for load and faults=.")
@click.argument("language", type=click.Choice(tuple(LANGUAGES)))
@click.argument("text", nargs=-1)
def import_command(
    control: Control,
    drive: str,
    file: str | None,
    is_printed: bool,
    language: str,
    text: tuple[str, ...],
) -> None:
    """Add rules that TEXT says in the LANGUAGE of another tool.

    That is a table of the device mapper, messages to dm-dust or a list of its bad
    blocks, options of scsi_debug, parameters of nbdkit's error or delay filter, or a
    file of blkdebug.  Prints the ids of the rules.  What cannot be had is refused, and
    nothing is added.

    \b
    Examples:
      faultline fault import dm-flakey 0 131072 flakey /dev/sdb 0 30 5 --drive vda
      faultline fault import nbdkit-error error-pwrite-rate=10% --drive vda
      faultline fault import dm-dust --file bad-blocks --drive vda
      faultline fault import scsi_debug opts=2 --drive vda --print >rules.faults
    """
    if bool(text) == (file is not None):
        raise click.UsageError("TEXT or --file FILE, one of them is needed")
    said = " ".join(text) if file is None else _text(file)
    source = "" if file is None else f"{file}: "
    try:
        rules = translate(language, said, drive, os.getcwd())
    except ValueError as exc:
        raise click.ClickException(f"{source}{_about(language, str(exc), file)}") from exc
    written = lines(rules)
    if is_printed:
        click.echo(written, nl=False)
    else:
        _print(in_session(control, lambda ask: _added(ask, written, None)))


def _about(language: str, message: str, file: str | None) -> str:
    """Return why a text is no such language; its only line, if it was typed, needs no number."""
    return f"{language}: {message if file is not None else message.removeprefix('line 1: ')}"


async def _added(ask: Ask, text: str, file: str | None) -> list[str]:
    """Add rules, the lines of a text; tell errors by the file, or without a place for None."""
    try:
        reply = await ask("x-fault-load", {"text": text})
    except ErrorReply as exc:
        told = located(exc.message, file or "") + _hint(exc.message)
        raise ErrorReply(told if file else told.partition(": ")[2]) from exc
    for text in reply.get("warnings", ()):
        told = located(text, file or "")
        click.echo(f"Warning: {told if file else told.partition(': ')[2]}", err=True)
    return list(reply["ids"])


def _hint(message: str) -> str:
    """Return a clause that goes behind the error of a line, as behind that of ``fault=``.

    >>> _hint("line 2: Parameter 'offset' expects uint64")
    ', such as 1048576'
    """
    return hints.hint(message.partition(": ")[2], "fault=")


def _print(ids: Iterable[str]) -> None:
    for id in ids:
        click.echo(id)


def _text(file: str) -> str:
    """Return the text of a file; raises ClickException."""
    try:
        if file == STDIN:
            text = sys.stdin.read(LENGTH_MAX + 1)
        else:
            with open(file, encoding="utf-8") as opened:
                text = opened.read(LENGTH_MAX + 1)
    except OSError as exc:
        raise click.ClickException(f"{file}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        text = "\0"
    if len(text) > LENGTH_MAX or "\0" in text:
        raise click.ClickException(f"{file}: it is no text of 16 MiB at most")
    return text
