# SPDX-License-Identifier: MIT
"""`faultline replay`: drive a new machine with a recording, and say where it first differs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing, suppress

import click

from blockcore.cli.once import Command
from blockcore.process.signals import unwinding
from blockcore.qapi.nearest import right_answers
from faultline.errors import FaultlineError
from faultline.recording import Recording, parse
from faultline.sync.replay import Replay


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=False))
@click.option("--until", type=click.IntRange(2), metavar="LINE", help="Stop behind this line.")
@click.option(
    "--drive",
    "drives",
    multiple=True,
    metavar="ID=FILE",
    help="Use an image, and write to it, instead of the file of a drive; repeatable.",
)
@click.option("--keep", is_flag=True, help="Print the sockets at the end; serve until interrupted.")
@click.option("--paced", is_flag=True, help="Send nothing earlier than in the recording.")
def replay(
    file: str, until: int | None, drives: Sequence[str], keep: bool, paced: bool
) -> int:
    """Drive a new machine with a recording, and say where it first differs.

    FILE is what a machine with record=FILE has written.  The new machine has the
    recorded keys, the same seed, and files of its own with the recorded contents, in
    a temporary directory.  Outcomes of requests, what reads have read, replies and
    events are compared; the first difference is told with its line and both sides.
    The status is 0 if there is none, and 1 if there is one.

    \b
    Examples:
      faultline replay run.jsonl
      faultline replay run.jsonl --until 120 --keep
      faultline replay run.jsonl --drive vda=copy.img
    """
    recording = _read(file)
    images = dict(_image(text, recording) for text in drives)
    difference: FaultlineError | None = None
    with (
        unwinding(),
        closing(Replay(recording, until=until, images=images, paced=paced)) as player,
    ):
        try:
            player.run()
        except FaultlineError as exc:
            difference = exc
        _tell(player, file, until, difference)
        if keep and player.ready:
            # Until the machine ends, or the user has seen enough.
            with suppress(KeyboardInterrupt):
                player.let_go()
                click.echo(json.dumps(dict(player.ready)))
                player.ended()
    return 0 if difference is None else 1


def _read(file: str) -> Recording:
    """Read a recording; raises ClickException if it is none."""
    try:
        with open(file, "rb") as lines:
            recording = parse(file, lines)
    except OSError as exc:
        raise click.ClickException(f"{file}: {exc.strerror}") from None
    except FaultlineError as exc:
        raise click.ClickException(str(exc)) from None
    if not recording.is_whole:
        click.echo(f"{file}: it was cut off: it has no last line", err=True)
    elif recording.lines[-1].value != "the machine has ended":
        click.echo(f"{file}: it ends before the machine: {recording.lines[-1].value}", err=True)
    return recording


def _image(text: str, recording: Recording) -> tuple[str, str]:
    name, equals, image = text.partition("=")
    if not (name and equals and image):
        raise click.UsageError(f"--drive '{text}' is not ID=FILE")
    known = [drive["id"] for drive in recording.header["drives"]]
    if name not in known:
        raise click.UsageError(f"there is no drive '{name}'{right_answers(name, known)}")
    return name, image


def _tell(
    player: Replay, file: str, until: int | None, difference: FaultlineError | None
) -> None:
    """Say how far the replay has come, and what it has found."""
    if difference is not None:
        click.echo(f"faultline: {file}: {difference}", err=True)
    elif until is None:
        click.echo(f"{file}: {player.at} lines, no divergence")
    else:
        waiting = "; ".join(map(str, player.in_flight())) or "nothing"
        click.echo(f"{file}: no divergence up to line {player.at}; in flight: {waiting}")
