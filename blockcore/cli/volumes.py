# SPDX-License-Identifier: MIT
"""`faultline volume`: the volumes of limited physical size below drives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from blockcore.cli.amounts import size
from blockcore.cli.completions import named
from blockcore.cli.connection import Control, ErrorReply, control_options
from blockcore.cli.once import Group
from blockcore.cli.qmp import Ask, in_session
from blockcore.cli.sending import Size, carried_out
from blockcore.cli.tables import fitted, screen_width

SETTINGS = {"help_option_names": ["-h", "--help"]}

COLUMNS = ("VOLUME", "PHYSICAL", "WRITTEN", "VIRTUAL", "EXTENSIONS", "REFUSALS", "RESPONDER")

OPTIONS = {"node-name": "DRIVE", "size": "--size", "add": "--add"}


@click.group(cls=Group, no_args_is_help=True, context_settings=SETTINGS)
def volume() -> None:
    """Extend the volumes that run full below drives, and list them.

    \b
    Examples:
      faultline volume list -s m0.qmp
      faultline volume extend -s m0.qmp vda --add 1G
    """


@volume.command()
@control_options
@click.option("--add", type=Size(), metavar="SIZE", help="Let it grow by so many bytes.")
@click.option("--size", "whole", type=Size(), metavar="SIZE", help="Let it grow to so many bytes.")
@click.argument("drive", shell_complete=named("drives"))
@click.argument("words", metavar="[KEY=VALUE]...", nargs=-1)
def extend(
    control: Control, add: int | None, whole: int | None, drive: str, words: tuple[str, ...]
) -> None:
    """Extend the volume below DRIVE, or below a node.

    Prints its new size.  SIZE may have a binary suffix: k, M, G; it is rounded up to
    whole extents.  Requests that are held are tried again by faultline cont.  A KEY is
    any other member of x-volume-extend: latency-ms=, errno=.

    \b
    Examples:
      faultline volume extend vda --add 1G && faultline cont
      faultline volume extend vda --size 10G latency-ms=2000
    """
    if (add is None) == (whole is None):
        raise click.UsageError("by how much? Give --add or --size, and not both")

    async def extended(ask: Ask) -> int:
        members = {"node-name": drive, "add": add, "size": whole}
        await carried_out(ask, "x-volume-extend", members, words, OPTIONS)
        (info,) = await ask("x-query-volumes", {"node-name": drive})
        return int(info["physical-size"])

    click.echo(f"{drive}: {size(in_session(control, extended))}")


@volume.command(name="list")
@control_options
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
def list_command(control: Control, as_json: bool) -> None:
    """List all volumes of limited physical size.

    WRITTEN is the end of what was written, or tried to; REFUSALS counts the
    requests that did not fit; RESPONDER is what a manager that extends it has done.
    With --json, each object has the members of x-query-volumes.

    \b
    Examples:
      faultline volume list
      faultline volume list --json | jq '.[].refusals'
    """
    volumes, drives = in_session(control, known_volumes)
    if as_json:
        click.echo(json.dumps(volumes, indent=2))
    elif volumes:
        click.echo("\n".join(table(volumes, drives, screen_width())))
    else:
        click.echo("There are no volumes.")


async def known_volumes(ask: Ask) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return all volumes, and the drives that are above volumes, by their nodes."""
    volumes = await ask("x-query-volumes", {})
    drives = {}
    if volumes:
        for info in await ask("query-block", {}):
            name = info["device"] or info["inserted"]["node-name"]
            try:
                (below,) = await ask("x-query-volumes", {"node-name": name})
            except ErrorReply:
                # There is no volume below this one.
                continue
            drives[below["node-name"]] = name
    return volumes, drives


def table(
    volumes: Sequence[Mapping[str, Any]], drives: Mapping[str, str], width: int | None
) -> list[str]:
    """Return the lines of a table of volumes, the members of x-query-volumes.

    A volume has the name of the drive above it, if there is one, else that of its
    file.
    """
    rows = []
    for one in volumes:
        responder = one.get("responder")
        did = f"{responder['extensions']} extensions" if responder else ""
        rows.append(
            (
                drives.get(one["node-name"], one["filename"]),
                size(one["physical-size"]),
                size(one["wr-highest-offset"]),
                size(one["virtual-size"]),
                str(one["extensions"]),
                str(one["refusals"]),
                did,
            )
        )
    return fitted(COLUMNS, rows, width)
