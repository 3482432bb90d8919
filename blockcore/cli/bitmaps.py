# SPDX-License-Identifier: MIT
"""`faultline bitmap`: the dirty bitmaps of nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from blockcore.cli.amounts import size, typed
from blockcore.cli.completions import named
from blockcore.cli.connection import Control, control_options
from blockcore.cli.once import Group
from blockcore.cli.qmp import Ask, in_session
from blockcore.cli.sending import Size, sent
from blockcore.cli.tables import fitted, screen_width

SETTINGS = {"help_option_names": ["-h", "--help"]}

COLUMNS = ("BITMAP", "NODE", "DIRTY", "GRANULARITY", "STATE")

OPTIONS = {"node": "DRIVE", "name": "NAME", "granularity": "--granularity"}


@click.group(cls=Group, no_args_is_help=True, context_settings=SETTINGS)
def bitmap() -> None:
    """Add, list, change and remove dirty bitmaps.

    A bitmap takes note of what guests write, for incremental backups.

    \b
    Examples:
      faultline bitmap add -s m0.qmp vda b0
      export FAULTLINE_CONTROL=m0.qmp
      faultline bitmap list
      faultline bitmap clear vda b0
    """


@bitmap.command()
@control_options
@click.option("--granularity", type=Size(), metavar="SIZE", help="Bytes for which a bit stands.")
@click.option("--disabled", is_flag=True, default=None, help="Take no writes until enable.")
@click.argument("drive", shell_complete=named("drives"))
@click.argument("name")
def add(
    control: Control, granularity: int | None, disabled: bool | None, drive: str, name: str
) -> None:
    """Add a bitmap to DRIVE, or to a node.

    It takes note of all writes from now on.

    \b
    Examples:
      faultline bitmap add vda b0
      faultline bitmap add vda b1 --granularity 64k
    """
    more = {"granularity": granularity, "disabled": disabled}
    _do(control, "add", drive, name, "added", more)


def of_one_bitmap(function: Callable[..., None]) -> click.Command:
    """Make a command that takes a drive and the name of one of its bitmaps."""
    function = click.argument("name", shell_complete=named("bitmaps"))(function)
    function = click.argument("drive", shell_complete=named("drives"))(function)
    return bitmap.command()(control_options(function))


@of_one_bitmap
def remove(control: Control, drive: str, name: str) -> None:
    """Remove a bitmap.

    \b
    Example:
      faultline bitmap remove vda b0
    """
    _do(control, "remove", drive, name, "removed")


@of_one_bitmap
def clear(control: Control, drive: str, name: str) -> None:
    """Mark everything in a bitmap as clean.

    \b
    Example:
      faultline bitmap clear vda b0
    """
    _do(control, "clear", drive, name, "cleared")


@of_one_bitmap
def enable(control: Control, drive: str, name: str) -> None:
    """Let a bitmap take writes again.

    \b
    Example:
      faultline bitmap enable vda b0
    """
    _do(control, "enable", drive, name, "enabled")


@of_one_bitmap
def disable(control: Control, drive: str, name: str) -> None:
    """Let a bitmap take no writes until enable.

    \b
    Example:
      faultline bitmap disable vda b0
    """
    _do(control, "disable", drive, name, "disabled")


@bitmap.command()
@control_options
@click.argument("drive", shell_complete=named("drives"))
@click.argument("target", shell_complete=named("bitmaps"))
@click.argument(
    "sources", metavar="SOURCE...", nargs=-1, required=True, shell_complete=named("bitmaps")
)
def merge(control: Control, drive: str, target: str, sources: tuple[str, ...]) -> None:
    """Mark as dirty in TARGET what is dirty in any SOURCE.

    All of them are merged, or none.

    \b
    Example:
      faultline bitmap merge vda b0 b1 b2
    """
    members = {"node": drive, "target": target, "bitmaps": sources}
    sent(control, "block-dirty-bitmap-merge", members, (), {"node": "DRIVE", "target": "TARGET"})
    click.echo(f"{target}: merged")


@bitmap.command(name="list")
@control_options
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
def list_command(control: Control, as_json: bool) -> None:
    """List all bitmaps, and how much is dirty.

    With --json, each object has the members of BlockDirtyInfo, and `node-name` and
    `device`, the drive above the node.

    \b
    Examples:
      faultline bitmap list
      faultline bitmap list --json | jq '.[] | select(.count == 0).name'
    """
    bitmaps = in_session(control, known_bitmaps)
    if as_json:
        click.echo(json.dumps(bitmaps, indent=2))
    elif bitmaps:
        click.echo("\n".join(table(bitmaps, screen_width())))
    else:
        click.echo("There are no bitmaps.")


async def known_bitmaps(ask: Ask) -> list[dict[str, Any]]:
    """Return the bitmaps of all nodes; of nodes that drives show, those come first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for info in await ask("query-block", {}):
        inserted = info.get("inserted") or {}
        for one in inserted.get("dirty-bitmaps", ()):
            node = inserted["node-name"]
            place = {"node-name": node, "device": info["device"]}
            found[node, one.get("name", "")] = {**place, **one}
    for node in await ask("query-named-block-nodes", {"flat": True}):
        for one in node.get("dirty-bitmaps", ()):
            key = node["node-name"], one.get("name", "")
            found.setdefault(key, {"node-name": node["node-name"], **one})
    return list(found.values())


def table(bitmaps: Sequence[dict[str, Any]], width: int | None) -> list[str]:
    """Return the lines of a table of bitmaps, as `known_bitmaps` returns them."""
    rows = [
        (
            one.get("name", ""),
            one.get("device") or one["node-name"],
            size(one["count"]),
            typed(one["granularity"]),
            state(one),
        )
        for one in bitmaps
    ]
    return fitted(COLUMNS, rows, width)


def state(one: dict[str, Any]) -> str:
    """Return what a bitmap is doing, in a word or two."""
    words = ["recording" if one["recording"] else "disabled"]
    words += [word for word in ("busy", "persistent", "inconsistent") if one.get(word)]
    return ", ".join(words)


def _do(
    control: Control,
    verb: str,
    drive: str,
    name: str,
    done: str,
    more: Mapping[str, object] | None = None,
) -> None:
    members = {"node": drive, "name": name, **(more or {})}
    sent(control, f"block-dirty-bitmap-{verb}", members, (), OPTIONS)
    click.echo(f"{name}: {done}")
