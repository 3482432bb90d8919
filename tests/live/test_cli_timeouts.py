# SPDX-License-Identifier: MIT
"""`--timeout`: what waits gives up in time, says what has not come, and ends with status 124."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from blockcore.cli import main
from live import Live

Captured = pytest.CaptureFixture[str]

MIB = 1 << 20


def test_a_server_that_does_not_answer(tmp_path: Path, capsys: Captured) -> None:
    path = str(tmp_path / "silent")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        for words in (["qmp", "cont"], ["jobs"], ["job", "pause", "j"]):
            assert main([*words, "-s", path, "--timeout", "0.01"]) == 124
            assert capsys.readouterr() == ("", f"faultline: {path}: no answer within 0.01 s\n")


def test_a_machine_that_does_not_end(tmp_path: Path, capsys: Captured) -> None:
    """The reply to quit is not the end: images are closed after it."""
    path = str(tmp_path / "lasting")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"QMP": {"version": {}, "capabilities": []}}\n')
        while line := await reader.readline():
            reply = {"return": {}, "id": json.loads(line)["id"]}
            writer.write(json.dumps(reply).encode() + b"\n")
        writer.close()

    async def scenario() -> int:
        async with await asyncio.start_unix_server(answer, path):
            return await asyncio.to_thread(main, ["quit", "-s", path, "--timeout", "0.5"])

    assert asyncio.run(scenario()) == 124
    line = f"faultline: {path}: the machine has not ended within 0.5 s\n"
    assert capsys.readouterr() == ("", line)


def test_what_does_not_come(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    drives = "drive=id=vda,driver=null-co,size=1M", "drive=id=vdb,driver=null-co,size=1M"
    with Live(tmp_path, *drives) as live, live.qmp() as qmp:
        follow = ["events", "-s", live.control, "--timeout", "0.2"]
        assert main([*follow, "--count", "2", "STOP"]) == 124
        line = "faultline: only 0 of 2 events came within 0.2 s\n"
        assert capfd.readouterr().err.endswith(line)
        assert main(follow) == 124
        line = "faultline: the machine has not ended within 0.2 s\n"
        assert capfd.readouterr().err.endswith(line)
        qmp("blockdev-add", driver="null-co", node_name="t", size=MIB)
        qmp("blockdev-mirror", device="vda", target="t", sync="full", job_id="j", speed=1)
        qmp("stop")
        assert main(["job", "wait", "-s", live.control, "--timeout", "0.2", "j"]) == 124
        # Which of both depends on how fast the machine is.
        said = ("faultline: j: running, not over", "faultline: j: no answer")
        assert capfd.readouterr().err.removesuffix(" within 0.2 s\n") in said


@pytest.mark.parametrize("text", ["", "soon", "-1", "1d", "1e3", "nan"])
def test_a_time_that_is_none(text: str, capsys: Captured) -> None:
    assert main(["jobs", "-s", "nope", "--timeout", text]) == 2
    line = (
        f"faultline jobs: Invalid value for '--timeout': '{text}' is no time, such as 10, 0.5 or 2m"
        " (see faultline jobs --help)\n"
    )
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("text", ["5", ".5", "5.", "5s", "2m", "1h"])
def test_a_time(text: str, capsys: Captured) -> None:
    assert main(["jobs", "-s", "nope", "--timeout", text]) == 1
    assert capsys.readouterr().err == "faultline: nope: No such file or directory\n"
