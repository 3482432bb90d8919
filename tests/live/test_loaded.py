# SPDX-License-Identifier: MIT
"""What a machine has imported when it is ready: little, and what it needs later comes then."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from live import FAULTLINE, TIMEOUT_S, Live, make_image
from tree import TREE

MIB = 1 << 20

IMPORT = re.compile(r"^import '(\S+)' # ", re.MULTILINE)
"""What PYTHONVERBOSE lets Python say of each module."""

BEGIN = "import 'encodings' # "
"""What each interpreter says first, or nearly so."""

COMMANDS = {"by_name", "run_state"}
DRIVERS = {"raw", "file", "fallocate", "file_info", "file_io", "probe"}
"""What is imported at the start of the folders of which most is imported later."""

HEAVY = {
    *("argparse", "datetime", "email", "hashlib", "http", "importlib.metadata", "multiprocessing"),
    *("pathlib", "platform", "ssl", "_ssl", "sysconfig", "tempfile", "unittest", "uuid", "xml"),
    *("click", "rich", "structlog", "nbd", "zstandard", "faultline"),
}
"""What each takes as long as a tenth of a start, or more, and is not needed until ready."""


def loaded(text: str) -> set[str]:
    return set(IMPORT.findall(text))


def within(names: set[str], places: set[str]) -> set[str]:
    """Those of the names that are, or are in, one of the places."""
    return {name for name in names if any(f"{name}.".startswith(f"{place}.") for place in places)}


def below(names: set[str], folder: str) -> set[str]:
    """The modules and folders right below a folder of ours."""
    return {
        name.removeprefix(f"{folder}.").partition(".")[0]
        for name in names
        if name.startswith(f"{folder}.")
    }


def all_below(room: str) -> set[str]:
    return {f"blockcore.{room}.{name}" for name in COMMANDS}


def written(live: Live, names: set[str]) -> set[str]:
    """Wait until the log tells that these are imported, and return all that it tells.

    The log is written a moment after what it tells of.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while not names <= (told := loaded(live.log.read_text())):
        assert time.monotonic() < deadline, names - told
    return told


def test_a_machine_with_a_raw_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own code is imported as it is used: no job, one format."""
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    make_image(tmp_path / "d.img", MIB)
    with Live(tmp_path, "drive=id=vda,file=d.img,format=raw") as live:
        names = written(live, {"blockcore.machine.machine", *all_below("commands")})
        assert below(names, "blockcore.commands") == COMMANDS
        assert below(names, "blockcore.nodes.drivers") == DRIVERS
        assert not within(names, {"blockcore.jobs", "blockcore.cli", "blockcore.process.standby"})
        assert not within(names, HEAVY)
        with live.qmp() as qmp:
            qmp("query-status")
            names = written(live, {"blockcore.commands.version"})
            assert below(names, "blockcore.commands") == {*COMMANDS, "version"}
            qmp("block-stream", device="vda", job_id="j")
            qmp.wait_event("JOB_STATUS_CHANGE", status="null")
            # The module of the command is there when all that it imports is.
            before = written(live, {"blockcore.jobs.stream.job", "blockcore.commands.streams"})
        assert live.stop() == 0
    assert loaded(live.log.read_text()) == before, "nothing is imported at the end"


def test_the_command(tmp_path: Path) -> None:
    """Once it knows nbdkit, it does what it has to do before it becomes nbdkit, and no more."""
    environ = {"PYTHONVERBOSE": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for _ in range(2):
        with (tmp_path / "log").open("w") as log, subprocess.Popen(
            [*FAULTLINE, "serve", "--nbd", "n", "control=q", "drive=id=d,driver=null-co,size=1M"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(TREE), **environ},
            stdout=subprocess.PIPE,
            stderr=log,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.terminate()
            process.wait(TIMEOUT_S)
    assert [path.name for path in (tmp_path / "cache" / "faultline").iterdir()] == ["nbdkit"]
    command, machine = (tmp_path / "log").read_text().split(BEGIN)[1:]
    assert "blockcore.machine.machine" in loaded(machine)
    names = loaded(command)
    assert "blockcore.cli.serve" in names
    heavy = {"asyncio", "email", "hashlib", "importlib.metadata", "json", "rich", "subprocess"}
    assert not within(names, {*heavy, "faultline", "structlog", "qemu"})
    assert not within(names, {f"blockcore.{room}" for room in ("nodes", "machine", "commands")})
    assert not within(names, {"blockcore.qapi.names", "blockcore.qapi.types"})
