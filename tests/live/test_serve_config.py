# SPDX-License-Identifier: MIT
"""Machines with fault rules from the start, and machines out of files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import nbd
import pytest

from live import FAULTLINE, TIMEOUT_S, Live
from tree import TREE

BLOCK = 4096


def serve(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    private = {"TMPDIR": str(directory), "XDG_RUNTIME_DIR": str(directory)}
    return subprocess.run(
        [*FAULTLINE, "serve", *words],
        cwd=directory,
        env={**os.environ, **private, "PYTHONPATH": str(TREE)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def test_the_first_request_meets_the_rule(tmp_path: Path) -> None:
    """It is as one of x-fault-add, with the names and numbers that this would give."""
    keys = ("drive=id=vda,driver=null-co,size=1M,werror=report", "blockdev=null-co,node-name=n")
    faults = ("fault=vda,errno=ENOSPC,iotype=write,offset=64k", "fault=n,id=mine", "fault=n")
    with Live(tmp_path, *keys, *faults) as live:
        with live.guest() as guest:
            guest.pwrite(b"x" * BLOCK, 0)
            with pytest.raises(nbd.Error) as caught:
                guest.pwrite(b"x" * BLOCK, 65536)
            assert caught.value.errno == "ENOSPC"
        with live.qmp() as qmp:
            rules = qmp("x-query-faults")
            (first,) = (rule for rule in rules if rule["id"] == "fault0")
            assert {rule["id"] for rule in rules} == {"fault0", "mine", "fault1"}
            assert (first["hits"], first["offset"], first["device"]) == (1, 65536, "vda")


def test_a_machine_in_a_file(tmp_path: Path) -> None:
    """Names of files begin where the command does; the command line adds and replaces."""
    (tmp_path / "sub").mkdir()
    content = {
        "drives": [{"id": "vda", "size": "2M"}],
        "blockdevs": [{"driver": "null-co", "node-name": "n", "size": 1 << 20}],
        "devices": [{"driver": "virtio-blk", "drive": "n", "id": "dn"}],
        "faults": [{"node-name": "vdb", "iotype": "read"}],
        "control": "q",
        "seed": 1,
        "quiet": True,
        "run": 'nbdinfo --size "$uri"; echo $FAULTLINE_CONTROL; env | grep FAULTLINE_URI | wc -l',
    }
    (tmp_path / "sub/m.json").write_text(json.dumps(content))
    done = serve(tmp_path, "--config", "sub/m.json", "drive=id=vdb,driver=null-co,size=1M")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(2 << 20), str(tmp_path / "q"), "3"]
    (file,) = tmp_path.iterdir()
    assert file.name == "sub"


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "a drive": ({"drives": ["id=a,driver=null-co", {"file": "x"}]}, "drives[1]: Could not open"),
    "a temporary drive": ({"drives": [{"id": "a", "size": "x"}]}, "size"),
    "a blockdev": ({"blockdevs": [{"driver": "raw"}], "control": "q"}, "blockdevs[0]: "),
    "a device": ({"devices": [{"driver": "nvme"}]}, "devices[0]: 'nvme' is not a valid device"),
    "a rule": ({"faults": [{"node-name": "nope"}]}, "faults[0]: Cannot find device='nope'"),
    "a key": ({"seed": "x"}, "seed: Parameter 'seed' expects a number"),
    "a release": ({"qemu": "6"}, "qemu: Parameter 'qemu' does not accept value '6'"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_errors_name_the_place(how: str, tmp_path: Path) -> None:
    content, text = FAILURES[how]
    (tmp_path / "m.json").write_text(json.dumps(content))
    done = serve(tmp_path, "--config", "m.json", "--nbd", "n")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert text in done.stderr
    if how != "a temporary drive":
        assert done.stderr.startswith(f"faultline: m.json: {text.partition(':')[0]}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]


def test_errors_of_the_command_line_name_the_pair(tmp_path: Path) -> None:
    """Though the file has a key of that name."""
    (tmp_path / "m.json").write_text('{"drives": ["id=a,driver=null-co"]}')
    done = serve(tmp_path, "--config", "m.json", "drive=id=b,file=nope")
    assert done.stderr.startswith("faultline: drive=id=b,file=nope: Could not open"), done.stderr
