# SPDX-License-Identifier: MIT
"""A crash at any moment, a failure of any request below: what is in the file afterwards."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import pytest

from qcow2_disk import Disk, crashes, judge, power_cuts
from qcow2_guest import Failing, Guest, look, read_disk
from qcow2_images import Around, create, open_on
from sim import perform


def empty(tmp_path: Path, cluster_size: int, size: int) -> bytes:
    return create(tmp_path / "empty", size, cluster_size=cluster_size).read_bytes()


SHAPES = {"512": (512, 96 << 10), "1k": (1024, 256 << 10), "4k": (4096, 512 << 10)}


@pytest.mark.slow
@pytest.mark.parametrize(("cluster_size", "size"), SHAPES.values(), ids=SHAPES)
def test_a_crash_after_any_write(tmp_path: Path, cluster_size: int, size: int) -> None:
    random = Random(cluster_size)
    around = Around()
    disk = Disk(empty(tmp_path, cluster_size, size), around)
    node = open_on(disk, around)
    guest = Guest(node, random)
    guest.work(disk, 300)
    perform(node.do_close())
    assert judge(disk.data) == ([], 0)
    for number, data in crashes(disk):
        flushed, since = guest.promised(number + 1)
        look(data, flushed, since, tmp_path if number % 100 == 0 else None)


@pytest.mark.slow
@pytest.mark.parametrize(("cluster_size", "size"), SHAPES.values(), ids=SHAPES)
def test_power_lost_at_any_time(tmp_path: Path, cluster_size: int, size: int) -> None:
    """Every subset of the sectors written since the last flush may be missing."""
    random = Random(cluster_size + 1)
    around = Around()
    disk = Disk(empty(tmp_path, cluster_size, size), around)
    node = open_on(disk, around)
    guest = Guest(node, random)
    guest.work(disk, 300)
    perform(node.do_close())
    for number, (end, data) in enumerate(power_cuts(disk, random, 400)):
        flushed, since = guest.promised(end)
        look(data, flushed, since, tmp_path if number % 25 == 0 else None)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
def test_any_request_below_fails_and_is_tried_again(tmp_path: Path, times: int) -> None:
    """As if nothing had been: nothing is lost, nothing leaked, nothing half applied."""
    image = empty(tmp_path, 512, 64 << 10)
    after = 0
    while True:
        around = Around()
        disk = Disk(image, around)
        node = open_on(disk, around, settings=None)
        failing = Failing(after, times, errno.ENOSPC)
        disk.on_io = failing
        guest = Guest(node, Random(7))
        guest.attempts = failing.attempts
        guest.work(disk, 160)
        failing.attempts(node.flush)
        assert read_disk(node) == guest.now
        perform(node.do_close())
        errors, leaks = judge(disk.data)
        assert not errors and not leaks, (after, errors, leaks)
        if not failing.fired:
            break
        after += 1 + after // 60
    assert after > 250
