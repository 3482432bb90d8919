# SPDX-License-Identifier: MIT
"""scripts/bench measures every row and says so in JSON; its figures are nobody's business here."""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockcore.faults.kinds import KINDS
from tree import TREE

ROWS = [
    "4k-read",
    "4k-write",
    "1m-read",
    "1m-write",
    "rules-read",
    "rules-write",
    "recording-read",
    "recording-write",
    "kinds-read",
    "kinds-write",
    "delay",
    "qcow2-4k-read",
    "qcow2-4k-write",
    "qcow2-1m-read",
    "qcow2-1m-write",
    "qcow2-allocate",
    "mirror-raw",
    "mirror-qcow2",
    "backup-raw",
    "backup-qcow2",
    "stream-raw",
    "stream-qcow2",
    "commit-raw",
    "commit-qcow2",
    "mirrors",
    "backups",
    "mirror-4k-read",
    "mirror-4k-write",
    "qmp",
    "cont",
    "release",
    "crash-states",
    "memory",
    "start",
    "start-standby",
    "start-eight",
]

TOLD = {"mirror-qcow2", "backup-qcow2", "stream-qcow2", "commit-qcow2"}
"""Rows without a budget."""


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """scripts/bench without its set-up, which the tests have behind them."""
    path = os.pathsep.join([str(TREE), str(TREE / "scripts")])
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(name="directory")
def _directory() -> Iterator[Path]:
    """A place on tmpfs that nobody else uses."""
    with tempfile.TemporaryDirectory(prefix="test-bench-", dir="/dev/shm") as place:
        yield Path(place)


def check_samples(samples: dict[str, Any]) -> None:
    assert samples["samples"]
    assert samples["median"] == statistics.median(samples["samples"])
    assert samples["min"] == min(samples["samples"])
    assert samples["max"] == max(samples["samples"])


def check_ratio(ratio: dict[str, Any], figures: dict[str, Any]) -> None:
    ours, theirs = (figures[ratio[side]]["samples"] for side in ("ours", "theirs"))
    assert ratio["samples"] == [a / b for a, b in zip(ours, theirs, strict=True)]
    check_samples(ratio)
    least, most, median = ratio["at_least"], ratio["at_most"], ratio["median"]
    if least is None and most is None:
        assert ratio["met"] is None
    else:
        assert ratio["met"] is (median >= least if most is None else median <= most)


def test_these_are_all_rows() -> None:
    """Without `--row` all of them are measured, in this order."""
    shown = "".join(bench("--help").stdout.split())
    assert f"[{'|'.join(ROWS)}]" in shown


def test_no_kind_of_fault_is_left_out() -> None:
    """But for the one that concerns no request, and so cannot stand elsewhere on a drive."""
    source = ast.parse((TREE / "scripts/benchmarks/faults.py").read_text())
    (rules,) = (
        node.value
        for node in source.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "KINDS"
    )
    assert isinstance(rules, ast.Dict)
    assert {key.value for key in rules.keys if isinstance(key, ast.Constant)} == {
        kind for kind in KINDS if kind != "set-state"
    }


@pytest.mark.slow
@pytest.mark.parametrize("rows", [ROWS[n::6] for n in range(6)], ids=lambda rows: rows[0])
def test_every_row_is_measured_and_nothing_is_left_behind(
    rows: list[str], tmp_path: Path, directory: Path
) -> None:
    tiny = ["--rounds", "1", "--seconds", "0.05", "--size", "4"]
    # Of each kind of rule there is more than one; what they cost is nobody's business here.
    few = ["--held", "6", "--connections", "2", "--rules", "24", "--drives", "4"]
    where = ["--directory", str(directory), "--json", str(tmp_path / "bench.json")]
    done = bench(*tiny, *few, *where, *(word for row in rows for word in ("--row", row)))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["environment"].keys() >= {"cores", "load_average", "nbdkit", "qemu", "fio"}
    assert result["parameters"]["rounds"] == 1 and result["parameters"]["size"] == 4 << 20
    assert [row["name"] for row in result["rows"]] == rows
    for row in result["rows"]:
        assert f"{row['name']}: {row['what']}" in done.stdout
        assert len(row["figures"]) > 1
        for samples in row["figures"].values():
            check_samples(samples)
        has_budget = any(ratio["met"] is not None for ratio in row["ratios"])
        assert has_budget is (row["name"] not in TOLD)
        if row["name"] != "memory":
            assert all(figure["min"] > 0 for figure in row["figures"].values())
        for ratio in row["ratios"]:
            check_ratio(ratio, row["figures"])
    assert result["parameters"]["tmpfs"] is True
    assert not list(directory.iterdir())


def test_one_row_alone_takes_its_rounds(tmp_path: Path) -> None:
    brief = ["--row", "qmp", "--rounds", "3", "--seconds", "0.05", "--size", "4"]
    done = bench(*brief, "--json", str(tmp_path / "bench.json"))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert row["name"] == "qmp"
    assert all(len(samples["samples"]) == 3 for samples in row["figures"].values())


def test_an_unknown_row_is_refused() -> None:
    done = bench("--row", "speed")
    assert done.returncode == 2
    assert "'speed' is not one of" in done.stderr
