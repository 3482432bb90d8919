# SPDX-License-Identifier: MIT
"""Two jobs on one chain of images: which can be at the same time, and how they end, as in QEMU.

All pairs of these jobs are tried, one way of ending them for each;
FAULTLINE_ALL_PAIRS asks for all ways.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import permutations, product
from typing import Any, NamedTuple

import pytest

from beside_qemu import Shared, Side
from job_chains import long, target
from replay import without_rests


class Kind(NamedTuple):
    """A job: its command, and whether it has to be told to complete."""

    command: str
    arguments: dict[str, Any]
    becomes_ready: bool = False


def _stream(**arguments: Any) -> Kind:
    return Kind("block-stream", arguments)


def _commit(**arguments: Any) -> Kind:
    return Kind("block-commit", {"device": "n4", **arguments}, "top_node" not in arguments)


def _copy(command: str, device: str, sync: str = "full") -> Kind:
    arguments = {"device": device, "target": "target", "sync": sync}
    return Kind(command, arguments, command == "blockdev-mirror")


JOBS = {
    "stream n4": _stream(device="n4"),
    "stream n4 from n2": _stream(device="n4", base_node="n2"),
    "stream n4 from n1": _stream(device="n4", base_node="n1"),
    "stream n3 from n1": _stream(device="n3", base_node="n1"),
    "stream n3 to n2": _stream(device="n3", bottom="n2"),
    "stream n2": _stream(device="n2"),
    "commit n1 to n0": _commit(top_node="n1", base_node="n0"),
    "commit n2 to n1": _commit(top_node="n2", base_node="n1"),
    "commit n3 to n2": _commit(top_node="n3", base_node="n2"),
    "commit n3 to n1": _commit(top_node="n3", base_node="n1"),
    "commit n4 to n3": _commit(base_node="n3"),
    "commit n4 to n1": _commit(base_node="n1"),
    "mirror n4": _copy("blockdev-mirror", "n4"),
    "mirror n2": _copy("blockdev-mirror", "n2"),
    "backup n4": _copy("blockdev-backup", "n4"),
    "backup n2": _copy("blockdev-backup", "n2"),
}


class Ends(NamedTuple):
    """Whether the second job ends first, and whether the last one is cancelled."""

    second_first: bool
    last_is_cancelled: bool


WAYS = [Ends(*way) for way in product((False, True), repeat=2)]


def cases() -> Iterator[Any]:
    for number, (first, second) in enumerate(permutations(JOBS, 2)):
        ways = WAYS if "FAULTLINE_ALL_PAIRS" in os.environ else [WAYS[number % len(WAYS)]]
        for way in ways:
            name = f"{first}, {second}{', second first' * way[0]}{', cancelled' * way[1]}"
            yield pytest.param(first, second, way, id=name)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second", "ends"), list(cases()))
def test_pairs(machines: Shared, first: str, second: str, ends: Ends) -> None:
    machines.play(lambda m: play(m, [first, second], ends))


def play(m: Side, names: list[str], ends: Ends) -> None:
    long(m, 5)
    target(m)
    started = []
    for job, name in zip("ab", names, strict=True):
        kind = JOBS[name]
        m(kind.command, job_id=job, auto_finalize=False, **kind.arguments)
        if m.replies[-1] == [kind.command, {}]:
            m.status(job, "ready" if kind.becomes_ready else "pending")
            started.append((job, kind))
    m.look()
    if ends.second_first:
        started.reverse()
    for job, kind in started:
        cancelled = ends.last_is_cancelled and job == started[-1][0]
        end(m, job, kind, cancelled)
    m.events[:] = without_rests(m.events)


def end(m: Side, job: str, kind: Kind, cancelled: bool) -> None:
    if cancelled:
        m("job-cancel", id=job)
    else:
        if kind.becomes_ready:
            m("job-complete", id=job)
            m.status(job, "pending")
        m("job-finalize", id=job)
    m.status(job, "null")
    m.look()
