# SPDX-License-Identifier: MIT
"""`faultline ls`, and machines that are called by their names."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from blockcore.cli import main
from blockcore.cli.machines import is_machine, nbd_sockets, processes
from live import Bare, Live, make_image

Captured = pytest.CaptureFixture[str]

DRIVE = "drive=id=vda,driver=null-co,size=1M"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nbdkit -f --log=null -U /s/nbd python /tree/plugin/drive.py drive=id=a", True),
        ("/usr/sbin/nbdkit python plugin/drive.py", True),
        ("nbdkit python /lib/python3/site-packages/faultline_plugin/drive.py", True),
        ("nbdkit python /tree/other.py", False),
        ("nbdkit python /tree/myplugin/drive.py", False),
        ("vim plugin/drive.py", False),
        ("nbdkit file disk.img", False),
        ("", False),
    ],
)
def test_what_is_a_machine(line: str, expected: bool) -> None:
    assert is_machine(line.split(" ")) is expected
    assert nbd_sockets(line.split(" ")) == (["/s/nbd"] if "-U" in line else [])


def ls(capsys: Captured) -> dict[int, dict[str, Any]]:
    assert main(["ls", "--json"]) == 0
    return {one["pid"]: one for one in json.loads(capsys.readouterr().out)}


def test_ls(tmp_path: Path, capsys: Captured) -> None:
    """However a machine was started; the dead are not there."""
    directories = [tmp_path / name for name in ("one", "two", "bare")]
    for directory in directories:
        directory.mkdir()
    make_image(directories[2] / "d", 1 << 20)
    with (
        Live(directories[0], DRIVE, "name=one", "prelaunch=on") as one,
        Live(directories[1], DRIVE) as two,
        Bare(directories[2], "drive=id=vdb,file=d,format=raw") as bare,
    ):
        # What clients are connected to is no further socket.
        with one.qmp():
            sockets = {process.pid: process.sockets for process in processes()}
        assert sockets[one.pid] == (one.control,)
        found = ls(capsys)
        age = found[one.pid].pop("age")
        assert age >= 0
        assert found[one.pid] == {
            **{"pid": one.pid, "name": "one", "status": "prelaunch", "drives": ["vda"]},
            "control": one.control,
        }
        assert (found[two.pid]["name"], found[two.pid]["status"]) == (None, "running")
        assert (found[bare.pid]["drives"], found[bare.pid]["control"]) == (["vdb"], bare.control)
        assert main(["ls"]) == 0
        rows = capsys.readouterr().out.splitlines()
        assert rows[0].split() == ["PID", "NAME", "STATUS", "AGE", "DRIVES", "CONTROL"]
        assert any(row.split()[:3] == [str(one.pid), "one", "prelaunch"] for row in rows)
        two.stop(signal.SIGKILL)
        assert {one.pid, two.pid} & ls(capsys).keys() == {one.pid}


def test_a_machine_that_gives_no_answer(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockcore.cli.machines.ANSWER_S", 0.05)
    with Live(tmp_path, DRIVE) as live:
        live.process.send_signal(signal.SIGSTOP)
        try:
            found = ls(capsys)[live.pid]
        finally:
            live.process.send_signal(signal.SIGCONT)
    assert (found["status"], found["control"]) == (None, live.control)


def test_a_machine_by_its_name(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"m{os.getpid()}"
    with Live(tmp_path, DRIVE, f"name={name}") as live:
        for called in (name, str(live.pid)):
            assert main(["stop", "-s", called]) == 0
            assert capsys.readouterr() == ("paused\n", "")
        assert main(["jobs", "-s", name]) == 0
        capsys.readouterr()
        (tmp_path / "other").mkdir()
        with Live(tmp_path / "other", DRIVE, f"name={name}") as other:
            assert main(["jobs", "-s", name]) == 2
            pids = " or ".join(str(one.pid) for one in (live, other))
            line = f"several machines are called '{name}': write -s {pids}"
            assert line in capsys.readouterr().err
        # What is there by that name in the directory is meant.
        (tmp_path / name).touch()
        assert main(["stop", "-s", name]) == 1
        assert capsys.readouterr().err.splitlines()[-1] == f"faultline: {name}: is not a socket"
    assert main(["stop", "-s", str(live.pid)]) == 1


def test_processes_of_nobody(tmp_path: Path) -> None:
    """A process may end while it is looked at."""
    (tmp_path / "12").mkdir()
    (tmp_path / "13").mkdir()
    (tmp_path / "13" / "cmdline").write_bytes(b"nbdkit\0python\0plugin/drive.py\0")
    (tmp_path / "uptime").write_text("10.0 5.0")
    assert processes(tmp_path) == []
