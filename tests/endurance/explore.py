# SPDX-License-Identifier: MIT
"""Real programs on a disk that loses its power, in every state that this might leave.

    scripts/endure explore [--runs N] [--limit N] [--seed SEED]

In each run qemu-io carries out random commands on a qcow2 image, and SQLite fills a
database on a file that is an export, where there is FUSE.  qemu-img and SQLite
check the states, in processes.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import click

from crash_checks import (
    CHECK_QCOW2,
    CheckDatabase,
    can_mount,
    fill,
    make_database,
    mounted,
    qemu_io,
    volatile,
)
from faultline import CrashReport
from live import make_image

SIZE = 4 << 20
COMMANDS = 12


def random_commands(rng: random.Random) -> list[str]:
    """Return commands of qemu-io within an image of half the disk's size."""
    commands = []
    for _ in range(COMMANDS):
        at, length = rng.randrange(0, SIZE // 4, 4096), rng.randrange(4096, 200_000, 4096)
        kinds = [f"write -P {rng.randrange(1, 255)}", "write -z", "write -z -u", "discard"]
        commands.append(f"{rng.choice(kinds)} {at} {length}")
        if rng.random() < 0.4:
            commands.append("flush")
    return commands


def images(directory: Path, rng: random.Random, limit: int, pool: Executor) -> CrashReport:
    with volatile(make_image(directory / "disk", SIZE)) as m:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", m.uri, "2M"], check=True)
        work = partial(qemu_io, m.uri, random_commands(rng))
        return m.explore("vda", CHECK_QCOW2, workload=work, limit=limit, executor=pool)


def databases(directory: Path, rng: random.Random, limit: int, pool: Executor) -> CrashReport:
    make_database(directory / "image", SIZE)
    with volatile(directory / "image") as m, mounted(m.uri, directory / "db") as database:
        work = partial(fill, database, rng.randrange(2, 8))
        check = CheckDatabase(f"{database}-journal")
        return m.explore("vda", check, workload=work, limit=limit, executor=pool)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", default=20, show_default=True)
@click.option("--limit", default=200, show_default=True, help="States of each moment.")
@click.option("--seed", default=None, help="That a run has printed, to do it again.")
def main(runs: int, limit: int, seed: str | None) -> None:
    """Crash programs in every way; end at the first state in which something is wrong."""
    seed = seed or str(random.randrange(1 << 32))
    loads = {"qcow2": images, **({"sqlite": databases} if can_mount() else {})}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for run in range(runs):
            for name, load in loads.items():
                rng = random.Random(f"{seed}/{run}/{name}")
                with tempfile.TemporaryDirectory(prefix="faultline-explore-") as directory:
                    report = load(Path(directory), rng, limit, pool)
                print(f"seed {seed}, run {run}, {name}: {report}", flush=True)
                if not report.ok:
                    raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="scripts/endure explore")
