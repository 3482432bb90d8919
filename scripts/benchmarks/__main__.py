# SPDX-License-Identifier: MIT
"""The command line of `scripts/bench`."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.control import cont_row, round_trip_row
from benchmarks.crash import crash_row
from benchmarks.data_path import (
    LARGE_READ,
    LARGE_WRITE,
    RANDOM_READ,
    RANDOM_WRITE,
    large_row,
    random_row,
    rules_row,
)
from benchmarks.faults import delay_row, kinds_row, release_row
from benchmarks.guest import guest_row
from benchmarks.jobs import commit_row, copy_row, many_row, stream_row
from benchmarks.memory import memory_row
from benchmarks.plan import Plan, on_tmpfs, workplace
from benchmarks.qcow2 import allocating_row, overlay_row
from benchmarks.recording import READ, WRITE, recording_row
from benchmarks.report import as_json, table
from benchmarks.rounds import Row
from benchmarks.servers import versions
from benchmarks.start import eight_row, standby_row, start_row

ROWS: dict[str, Callable[[Plan, str], Row]] = {
    "4k-read": partial(random_row, pattern=RANDOM_READ),
    "4k-write": partial(random_row, pattern=RANDOM_WRITE),
    "1m-read": partial(large_row, pattern=LARGE_READ),
    "1m-write": partial(large_row, pattern=LARGE_WRITE),
    "rules-read": partial(rules_row, pattern=RANDOM_READ),
    "rules-write": partial(rules_row, pattern=RANDOM_WRITE),
    "recording-read": partial(recording_row, pattern=READ),
    "recording-write": partial(recording_row, pattern=WRITE),
    "kinds-read": partial(kinds_row, pattern=RANDOM_READ),
    "kinds-write": partial(kinds_row, pattern=RANDOM_WRITE),
    "delay": delay_row,
    "qcow2-4k-read": partial(overlay_row, pattern=RANDOM_READ, least=1.5),
    "qcow2-4k-write": partial(overlay_row, pattern=RANDOM_WRITE, least=1.5),
    "qcow2-1m-read": partial(overlay_row, pattern=LARGE_READ, least=1),
    "qcow2-1m-write": partial(overlay_row, pattern=LARGE_WRITE, least=1),
    "qcow2-allocate": allocating_row,
    **{
        f"{command}-{layout}": partial(copy_row, command=command, layout=layout)
        for command in ("mirror", "backup")
        for layout in ("raw", "qcow2")
    },
    **{
        f"{job}-{layout}": partial(row, layout=layout)
        for job, row in (("stream", stream_row), ("commit", commit_row))
        for layout in ("raw", "qcow2")
    },
    "mirrors": partial(many_row, command="mirror"),
    "backups": partial(many_row, command="backup"),
    "mirror-4k-read": partial(guest_row, pattern=RANDOM_READ),
    "mirror-4k-write": partial(guest_row, pattern=RANDOM_WRITE),
    "qmp": round_trip_row,
    "cont": cont_row,
    "release": release_row,
    "crash-states": crash_row,
    "memory": memory_row,
    "start": start_row,
    "start-standby": standby_row,
    "start-eight": eight_row,
}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--row", "names", type=click.Choice(list(ROWS)), multiple=True, help="Only this; repeatable."
)
@click.option("--rounds", type=click.IntRange(1), default=5, help="Turns of every contender.")
@click.option("--seconds", type=click.FloatRange(0.05), default=3.0, help="Of each turn.")
@click.option("--quick", is_flag=True, help="Two rounds of one second: a first impression.")
@click.option("--size", type=click.IntRange(4), default=1024, help="MiB of the drive.")
@click.option("--held", type=click.IntRange(1), default=1000, help="Requests held at once.")
@click.option(
    "--connections", type=click.IntRange(1), default=40, help="Over which those are spread."
)
@click.option("--rules", type=click.IntRange(1), default=1000, help="Rules of a drive with many.")
@click.option(
    "--drives", type=click.IntRange(1), default=200, help="By which the memory of one is known."
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where the drive is to be, for a while; tmpfs with room for it, if there is one.",
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write all figures here."
)
def bench(
    names: tuple[str, ...],
    rounds: int,
    seconds: float,
    quick: bool,
    size: int,
    held: int,
    connections: int,
    rules: int,
    drives: int,
    directory: Path | None,
    json_path: Path | None,
) -> None:
    """Measure this tree beside nbdkit's C plugins and QEMU; print ratios and the budget.

    A ratio is one contender's figure divided by the other's in the same round:
    the median of all rounds, then the smallest and the largest.  Figures are in
    the row's unit and say nothing about other runs.
    """
    # sys.exit, so that servers are stopped and files removed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if quick:
        rounds, seconds = 2, 1.0
    environment = _environment()
    with workplace(size << 20, directory) as (place, image):
        if not on_tmpfs(place):
            click.echo(f"not on tmpfs: the drive is in {place.parent}", err=True)
        plan = Plan(place, image, size << 20, rounds, seconds, held, connections, rules, drives)
        rows = []
        for name in names or ROWS:
            rows.append(ROWS[name](plan, name))
            click.echo(table(rows[-1:]))
        parameters = {
            "rounds": rounds,
            "seconds": seconds,
            "size": size << 20,
            "held": held,
            "connections": connections,
            "rules": rules,
            "drives": drives,
            "tmpfs": on_tmpfs(place),
        }
    if json_path is not None:
        json_path.write_text(json.dumps(as_json(rows, environment, parameters), indent=2) + "\n")


def _environment() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        **versions(),
    }


if __name__ == "__main__":
    bench(prog_name="scripts/bench")
