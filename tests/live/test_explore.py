# SPDX-License-Identifier: MIT
"""Crashes of workloads, walked by the client library with checkers of any kind of worker."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

import faultline.aio
from crash_checks import (
    CHECK_QCOW2,
    CheckDatabase,
    can_mount,
    check_records,
    fill,
    keep_records,
    make_database,
    mounted,
    qemu_io,
    volatile,
    wipe,
)
from faultline import Check, CommandError, FaultlineError, Machine, TimedOut
from live import make_image
from qcow2_images import create

KIB, MIB = 1 << 10, 1 << 20

NO_DRIVE = r"there is no drive or node 'vdx' \(the drives are vda\)"


@pytest.fixture(scope="module", name="shared")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    directory = tmp_path_factory.mktemp("m")
    with volatile(make_image(directory / "disk", 64 * KIB)) as machine:
        yield machine


@pytest.fixture(name="m")
def _machine(shared: Machine) -> Machine:
    """A machine whose disk is empty."""
    wipe(shared.uri)
    return shared


def test_who_flushes_between_survives_each_crash(m: Machine) -> None:
    report = m.explore("vda", check_records, workload=partial(keep_records, m.uri, 3))
    assert report.ok, report
    assert report.moments == 2 * 3 + 1 and not report.sampled
    # Of a record none, one, the other or both sectors are there; of a name none or one.
    assert len(report.results) == 3 * (4 + 2) + 1


def test_who_does_not_is_found_out_and_the_state_found_again(tmp_path: Path) -> None:
    with volatile(make_image(tmp_path / "disk", 64 * KIB)) as m:
        careless = partial(keep_records, m.uri, 1, careful=False)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            report = m.explore("vda", check_records, workload=careless, executor=pool)
        assert not report.ok
        assert {result.wrong for result in report.failures} == {"record 1 is not there"}
        worst = report.failures[-1].name
    with volatile(make_image(tmp_path / "disk", 64 * KIB)) as m:
        careless = partial(keep_records, m.uri, 1, careful=False)
        alone = m.explore("vda", check_records, workload=careless, only=worst)
    assert [str(result) for result in alone.results] == [f"{worst}: record 1 is not there"]


def test_this_moment(m: Machine) -> None:
    """What is not flushed may be lost; the drive goes on, and its clones are gone."""
    subprocess.run(["qemu-io", "-f", "raw", "-t", "none", "-c", "write 0 1k", m.uri], check=True)
    sizes = m.explore("vda", Check("nbdinfo", "--size", "{uri}"), torn=False)
    assert sizes.ok and sizes.moments == 1
    again = m.explore("vda", Check("cmp", "{file}", "/dev/null"), limit=1)
    assert (len(again.results), again.sampled) == (1, [1])
    assert "cmp has ended with status 1: " in str(again)


def test_a_cluster_of_dask(m: Machine) -> None:
    distributed = pytest.importorskip(
        "distributed", reason="dask.distributed is not installed: pip install distributed"
    )
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
    ):
        work = partial(keep_records, m.uri, 1, careful=False)
        report = m.explore("vda", check_records, workload=work, executor=executor)
    assert report.moments == 2 and len(report.results) == 4 * 2 + 1
    assert {result.wrong for result in report.failures} == {"record 1 is not there"}


def test_a_drive_that_is_not_there(m: Machine) -> None:
    with pytest.raises(FaultlineError, match=NO_DRIVE):
        m.explore("vdx", check_records)


def test_with_asyncio(m: Machine) -> None:
    async def run() -> str:
        async with faultline.aio.Machine.connect(m.control) as other:
            with pytest.raises(FaultlineError, match="the NBD URI of vda is not known"):
                await other.explore("vda", check_records)
            with pytest.raises(FaultlineError, match=NO_DRIVE):
                await other.explore("vdx", check_records)
            work = partial(keep_records, m.uri, 1)
            return str(await other.explore("vda", check_records, workload=work, uri=m.uri))

    assert asyncio.run(run()).endswith("states of 3 moments, nothing wrong")


def test_a_workload_that_fails(m: Machine) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        m.explore("vda", check_records, workload=partial(subprocess.run, ["false"], check=True))
    with pytest.raises(TimedOut, match="neither flushed nor ended within 0.1 s"):
        m.explore("vda", check_records, workload=partial(asyncio.run, asyncio.sleep(0.5)),
                  timeout=0.1)  # fmt: skip


def test_a_drive_without_a_cache(tmp_path: Path) -> None:
    with Machine(make_image(tmp_path / "plain", 64 * KIB)) as m, pytest.raises(CommandError):
        m.explore("vda", check_records)


def test_qcow2_of_qemu(tmp_path: Path) -> None:
    """An image that qemu-io writes to on a disk that may lose power."""
    with volatile(make_image(tmp_path / "disk", 2 * MIB)) as m:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", m.uri, "1M"], check=True)
        commands = ["write -P 1 0 64k", "flush", "write -P 2 32k 128k", "discard 0 64k", "flush",
                    "write -z 256k 64k", "write -P 3 512k 4k"]  # fmt: skip
        work = partial(qemu_io, m.uri, commands)
        report = m.explore("vda", CHECK_QCOW2, workload=work, limit=12, torn=False)
    assert report.ok, report
    assert report.moments > 3


def test_qcow2_of_this_project(tmp_path: Path) -> None:
    """The driver's own metadata is in a cache below it that may lose its power."""
    create(tmp_path / "disk", 8 * MIB)
    below = {"driver": "file", "filename": str(tmp_path / "disk")}
    cache = {"driver": "x-volatile-cache", "node-name": "cache", "file": below}
    disk = {"driver": "qcow2", "node-name": "disk", "discard": "unmap", "file": cache}
    commands = ["write 0 64k", "flush", "write 32k 128k", "write 5M 64k", "discard 0 64k", "flush",
                "write -z -u 5M 64k", "write 6M 4k", "flush"]  # fmt: skip
    with Machine(blockdevs=[disk], devices=["virtio-blk,drive=disk"]) as m:
        work = partial(qemu_io, m.uri, commands, "raw")
        report = m.explore(
            "cache", CHECK_QCOW2, workload=work, limit=12, torn=False, uri=m.uri
        )
    assert report.ok, report
    assert report.moments > 3 and len(report.results) > 12


FUSE = pytest.mark.skipif(
    not can_mount(), reason="a file that is an export needs nbdfuse and /dev/fuse"
)


@FUSE
@pytest.mark.parametrize("lies", [False, True], ids=["flushes", "flushes that lie"])
def test_sqlite(tmp_path: Path, lies: bool) -> None:
    """A database survives each crash, and does not where flushes lie: so this can tell."""
    make_database(tmp_path / "image", 256 * KIB)
    with volatile(tmp_path / "image") as m, mounted(m.uri, tmp_path / "db") as database:
        check = CheckDatabase(f"{database}-journal")
        if lies:
            fill(database, 1)
            with m.fault("vda", iotype="flush", action="drop"):
                fill(database, 1)
            report = m.explore("vda", check, limit=12)
        else:
            report = m.explore("vda", check, workload=partial(fill, database, 3), limit=12)
            assert report.moments >= 4
    assert report.ok != lies, report
