# SPDX-License-Identifier: MIT
"""Real programs on a disk that loses its power, in every state that this might leave.

    scripts/endure explore [--runs N] [--limit N] [--seed SEED]

In each run qemu-io carries out random commands on a qcow2 image, SQLite fills a
database on a file that is an export, where there is FUSE, and a Linux guest makes,
moves and removes files on ext4.  qemu-img, SQLite and e2fsck check the states, in
processes.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import click

from crash_checks import (
    CHECK_EXT4,
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
from linux_guest import KERNEL, LinuxGuest
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


def file_systems(directory: Path, rng: random.Random, limit: int, pool: Executor) -> CrashReport:
    """Crash a guest with ext4.

    Writes are whole: the superblock has two sectors of 512 bytes, and a torn one is
    beyond what a journal can mend.
    """
    with make_image(directory / "disk", 2 * SIZE).open("rb") as image:
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-b", "1024", image.name], check=True)
    commands = [
        f"mkdir -p /mnt/{n % 3}; dd if=/dev/urandom of=/mnt/f bs=1k count={rng.randrange(1, 90)};"
        f"mv /mnt/f /mnt/{n % 3}/{rng.randrange(3)}; rm -rf /mnt/{rng.randrange(9)}; sync"
        for n in range(6)
    ]
    with volatile(directory / "disk", timeout=240) as m:
        socket = parse_qs(urlsplit(m.uri).query)["socket"][0]
        with LinuxGuest(directory, socket, "vda") as guest:
            mounted = guest.run("mkdir -p /mnt; mount /dev/vda /mnt")
            assert mounted == "0", mounted

            def work() -> None:
                for command in commands:
                    assert guest.run(f"{{ {command}; }} 2>&-") == "0"

            return m.explore(
                "vda", CHECK_EXT4, workload=work, limit=limit, torn=False, executor=pool
            )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", default=20, show_default=True)
@click.option("--limit", default=200, show_default=True, help="States of each moment.")
@click.option("--seed", default=None, help="That a run has printed, to do it again.")
def main(runs: int, limit: int, seed: str | None) -> None:
    """Crash programs in every way; end at the first state in which something is wrong."""
    seed = seed or str(random.randrange(1 << 32))
    loads = {"qcow2": images}
    if can_mount():
        loads["sqlite"] = databases
    if KERNEL.exists():
        loads["ext4"] = file_systems
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
