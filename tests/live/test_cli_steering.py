# SPDX-License-Identifier: MIT
"""The commands that look at a machine and steer it, with a real machine and a real guest."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nbd
import pytest

from blockcore.cli import main
from blockcore.cli.connection import connected
from faultline import Event
from live import FAULTLINE, TIMEOUT_S, Flight, Live, Qmp, make_image
from tree import TREE

Captured = pytest.CaptureFixture[str]

MIB = 1 << 20
HALF = MIB // 2


def start(directory: Path) -> Live:
    """A machine whose drive vda stops on all errors; vdb is on a volume of half its size."""
    for name in ("a", "b"):
        make_image(directory / name, MIB)
    keys = [
        "drive=id=vda,file=a,format=raw,node-name=n,rerror=stop,werror=stop",
        f"drive=id=vdb,file=b,format=raw,file.x-physical-size={MIB}",
    ]
    return Live(directory, *keys, "name=m0")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with start(tmp_path_factory.mktemp("machine")) as live:
        yield live


@pytest.fixture
def machine(shared: Live, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """The machine of all tests that do not end it; only one test extends its volume."""
    monkeypatch.setenv("FAULTLINE_CONTROL", shared.control)
    yield shared
    assert main(["fault", "clear"]) == main(["cont"]) == 0
    for drive, rerror, werror in (("vda", "stop", "stop"), ("vdb", "report", "enospc")):
        assert main(["drive", "set-policy", drive, "--rerror", rerror, "--werror", werror]) == 0


@pytest.fixture
def mortal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """A machine of the test's own, which may end."""
    with start(tmp_path) as live:
        monkeypatch.setenv("FAULTLINE_CONTROL", live.control)
        yield live


@pytest.fixture
def qmp(machine: Live) -> Iterator[Qmp]:
    with machine.qmp() as client:
        yield client


def said(capsys: Captured, *words: str, status: int = 0) -> str:
    """What a command has said on stdout, or of its failure on stderr."""
    assert main(list(words)) == status, capsys.readouterr()
    out, err = capsys.readouterr()
    assert (err if status == 0 else out) == ""
    return out if status == 0 else err


def listed(capsys: Captured, *words: str) -> Any:
    return json.loads(said(capsys, *words, "--json"))


def test_faults(machine: Live, qmp: Qmp, capsys: Captured) -> None:
    assert said(capsys, "fault", "list") == "There are no faults.\n"
    assert listed(capsys, "fault", "list") == []
    where = ["--from", "512k", "--to", "768k"]
    assert said(capsys, "fault", "add", "vda", "--write", "--errno", "ENOSPC", *where) == "fault0\n"
    more = ["--read", "--flush", "--rate", "10%", "--after", "2", "--count", "5"]
    assert said(capsys, "fault", "add", "n", *more, "--id", "f") == "f-read\nf-flush\n"
    assert said(capsys, "fault", "add", "vdb", "event=pwritev", "once=on") == "fault1\n"
    rules = listed(capsys, "fault", "list")
    assert rules == qmp("x-query-faults")
    members = ("iotype", "offset", "length", "rate", "after", "count", "event")
    assert [[rule.get(name) for name in members] for rule in rules] == [
        ["write", HALF, HALF // 2, 1.0, 0, None, "none"],
        ["read", None, None, 0.1, 2, 5, "none"],
        ["flush", None, None, 0.1, 2, 5, "none"],
        [None, None, None, 1.0, 0, 1, "pwritev"],
    ]
    assert said(capsys, "fault", "list").splitlines()[:2] == [
        "FAULT    NODE  REQUESTS  RANGE      OUTCOME  WHEN              SEEN  HITS",
        "fault0   vda   write     512k-768k  ENOSPC   -                 0     0",
    ]
    assert said(capsys, "fault", "modify", "fault0", "--to", "600k", "--errno", "EIO") == (
        "fault0: changed\n"
    )
    assert said(capsys, "fault", "modify", "f-read", "--rate", "1", "state=0") == (
        "f-read: changed\n"
    )
    rules = listed(capsys, "fault", "list")
    assert (rules[0]["length"], rules[0]["errno-name"]) == (600 * 1024 - HALF, "EIO")
    assert (rules[1]["rate"], rules[1]["count"]) == (1.0, 5)
    assert said(capsys, "fault", "remove", "f-read", "f-flush", "f-read") == (
        "f-read: removed\nf-flush: removed\n"
    )
    assert said(capsys, "fault", "clear", "vdb") == "1 rule removed\n"
    assert said(capsys, "fault", "clear") == "1 rule removed\n"
    assert said(capsys, "fault", "clear") == "0 rules removed\n"


def test_a_rule_that_hits_nothing(qmp: Qmp, capsys: Captured) -> None:
    assert main(["fault", "add", "vda", "--write", "state=5"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (
        "fault0\n",
        f"Warning: 'state' 5 is set by no rule of node '{_node(qmp)}', which is in state 1\n",
    )
    said(capsys, "fault", "clear")


def _node(qmp: Qmp) -> str:
    return str(qmp("x-query-faults")[0]["node-name"])


def test_what_hangs_is_waited_for_and_released(
    machine: Live, qmp: Qmp, capsys: Captured
) -> None:
    added = said(capsys, "fault", "add", "vda", "--read", "--action", "hang", "--id", "h")
    assert added == "h\n"
    assert "hang" in said(capsys, "fault", "list")
    with machine.guest("vda") as guest:
        cookies = [guest.aio_pread(nbd.Buffer(512), 0) for _ in range(2)]
        assert said(capsys, "fault", "wait", "h", "--hits", "2") == "h: 2 hits\n"
        assert said(capsys, "fault", "release", "h") == "h: 2 requests released\n"
        for cookie in cookies:
            while not guest.aio_command_completed(cookie):
                guest.poll(100)
    qmp("x-fault-modify", id="h", action="error", count=2)
    failed = said(capsys, "fault", "wait", "h", "--hits", "3", status=1)
    assert "h: is over after 2 hits" in failed
    qmp("x-fault-add", node_name="vda", iotype=["read", "write"], id="several")
    qmp("x-fault-add", node_name="vda", fua=True, id="fua")
    rows = [line.split() for line in said(capsys, "fault", "list").splitlines()]
    assert [row[2:4] for row in rows[2:4]] == [["read,write", "EIO"], ["all", "FUA"]]
    said(capsys, "fault", "clear")


def test_rules_are_added_all_or_none(qmp: Qmp, capsys: Captured) -> None:
    said(capsys, "fault", "add", "vda", "--id", "x-write")
    said(capsys, "fault", "add", "vda", "--read", "--write", "--id", "x", status=1)
    assert [rule["id"] for rule in qmp("x-query-faults")] == ["x-write"]
    said(capsys, "fault", "remove", "x-write", "nope", status=1)
    assert [rule["id"] for rule in qmp("x-query-faults")] == ["x-write"]


def test_a_request_that_is_held(machine: Live, qmp: Qmp, capsys: Captured) -> None:
    said(capsys, "fault", "add", "vda", "--write", "--errno", "ENOSPC")
    with machine.guest("vda") as guest:
        flight = Flight()
        request = flight.write(guest, HALF, b"x" * 4096)
        flight.poll(0)
        qmp.wait_for(lambda: qmp("query-status")["status"] == "io-error")
        status = listed(capsys, "status")
        assert (status["name"], status["status"]["status"]) == ("m0", "io-error")
        assert [one["io-status"] for one in status["block"]] == ["nospace", "ok"]
        (held,) = status["requests"]
        assert (held["device"], held["offset"], held["waits-for"]) == ("vda", HALF, "run")
        assert status["faults"][0]["hits"] == 1
        lines = said(capsys, "status").splitlines()
        assert lines[0].startswith("m0: io-error, 1 request is held, for 0:")
        assert lines[2:4] == [
            "DRIVE  SIZE     RERROR  WERROR  IO-STATUS  IMAGE",
            "vda    1.0 MiB  stop    stop    nospace    a",
        ]
        assert said(capsys, "cont") in ("running\n", "io-error\n")
        assert said(capsys, "fault", "clear") == "1 rule removed\n"
        assert said(capsys, "cont") == "running\n"
        settle(flight)
        assert request.outcome == "OK"


def settle(flight: Flight) -> None:
    while flight.pending:
        flight.poll(TIMEOUT_S)


def test_run_states(qmp: Qmp, capsys: Captured) -> None:
    assert said(capsys, "stop") == "paused\n"
    assert said(capsys, "cont") == "running\n"
    assert said(capsys, "reset") == "running\n"
    assert said(capsys, "stop") == "paused\n"
    assert said(capsys, "reset") == "prelaunch\n"
    for name in ("STOP", "RESUME", "RESET", "STOP", "RESET"):
        qmp.wait_event(name)


def test_policies(qmp: Qmp, capsys: Captured) -> None:
    policy = ["drive", "set-policy"]
    assert said(capsys, *policy, "vdb", "--werror", "stop") == "vdb: rerror=report, werror=stop\n"
    said_of_node = said(capsys, *policy, "n", "--rerror", "report", "--werror", "enospc")
    assert said_of_node == "vda: rerror=report, werror=enospc\n"
    assert [drive["rerror"] for drive in qmp("x-query-drives")] == ["report", "report"]


def test_volumes(machine: Live, qmp: Qmp, capsys: Captured) -> None:
    assert said(capsys, "volume", "extend", "vdb", "--add", "1M") == "vdb: 2.0 MiB\n"
    more = ["--size", "4M", "latency-ms=1"]
    assert said(capsys, "volume", "extend", "vdb", *more) == "vdb: 4.0 MiB\n"
    failed = ["--add", "1M", "errno=EIO"]
    error = "faultline: Failed to extend volume: Input/output error\n"
    assert said(capsys, "volume", "extend", "vdb", *failed, status=1) == error
    heading, row = said(capsys, "volume", "list").splitlines()
    assert heading.split()[:2] == ["VOLUME", "PHYSICAL"] and row.startswith("vdb     4.0 MiB")
    assert listed(capsys, "volume", "list") == qmp("x-query-volumes")


def test_bitmaps(machine: Live, qmp: Qmp, capsys: Captured) -> None:
    assert said(capsys, "bitmap", "list") == "There are no bitmaps.\n"
    assert said(capsys, "bitmap", "add", "vda", "b", "--granularity", "4k") == "b: added\n"
    assert said(capsys, "bitmap", "add", "vda", "c", "--disabled") == "c: added\n"
    with machine.guest("vda") as guest:
        guest.pwrite(b"x" * 512, 0)
    count = {one["name"]: one["count"] for one in listed(capsys, "bitmap", "list")}
    assert count == {"b": 4096, "c": 0}
    said(capsys, "bitmap", "merge", "vda", "c", "b")
    assert "c       vda   64.0 KiB" in said(capsys, "bitmap", "list")
    said(capsys, "bitmap", "disable", "n", "b")
    said(capsys, "bitmap", "enable", "n", "c")
    assert said(capsys, "bitmap", "clear", "vda", "c") == "c: cleared\n"
    shown = {one["name"]: one["recording"] for one in listed(capsys, "bitmap", "list")}
    assert shown == {"b": False, "c": True}
    assert {one["device"] for one in listed(capsys, "bitmap", "list")} == {"vda"}
    for name in ("b", "c"):
        assert said(capsys, "bitmap", "remove", "vda", name) == f"{name}: removed\n"
    assert listed(capsys, "bitmap", "list") == []


class Waiting:
    """`faultline wait` as somebody else's process, connected."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [*FAULTLINE, "wait", *words],
            cwd=TREE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err


def test_wait(machine: Live, qmp: Qmp, capsys: Captured) -> None:
    said(capsys, "fault", "add", "vda", "--write", "--count", "1", "--errno", "ENOSPC")
    said(capsys, "fault", "add", "vdb", "--write", "--count", "1")
    with Waiting("BLOCK_IO_ERROR", "device=vda", "nospace=on") as waiting:
        assert waiting.said == "faultline: waiting for BLOCK_IO_ERROR device=vda nospace=on\n"
        with machine.guest("vdb") as guest, pytest.raises(nbd.Error):
            guest.pwrite(b"x" * 512, 0)
        with machine.guest("vda") as guest:
            flight = Flight()
            flight.write(guest, 0, b"x" * 512)
            flight.poll(0)
            status, out, err = waiting.end()
            qmp("cont")
            settle(flight)
    event = json.loads(out)
    assert (status, err, event["data"]["device"]) == (0, "", "vda")
    assert Event.of(event) == qmp.wait_event("BLOCK_IO_ERROR", device="vda")


def test_wait_for_what_has_come_already(machine: Live, capsys: Captured) -> None:
    said(capsys, "stop")
    wait = ["wait", "STOP", "--or-state", "io-error", "--or-state", "paused"]
    assert json.loads(said(capsys, *wait)) == {"running": False, "status": "paused"}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_wait_while_the_machine_ends(how: signal.Signals, mortal: Live) -> None:
    with Waiting("STOP") as waiting:
        mortal.stop(how)
        line = f"faultline: {mortal.control}: the machine has ended before STOP came\n"
        assert waiting.end() == (1, "", line)


def test_wait_is_interrupted(machine: Live) -> None:
    with Waiting("STOP") as waiting:
        waiting.process.send_signal(signal.SIGINT)
        assert waiting.end() == (130, "", "\n")


def test_wait_ends_when_nobody_reads_it(machine: Live) -> None:
    with Waiting("STOP") as waiting:
        assert waiting.process.stdout is not None
        waiting.process.stdout.close()
        assert waiting.process.wait(TIMEOUT_S) == 0


def test_quit(mortal: Live, capsys: Captured) -> None:
    """The control socket is closed with the images."""
    assert said(capsys, "quit") == ""
    assert mortal.process.wait(TIMEOUT_S) == 0
    assert said(capsys, "status", status=1).endswith(": No such file or directory\n")


def test_a_pipe_whose_reader_goes(machine: Live) -> None:
    for words in ("status", "ls", "fault list --json"):
        shell = f'"$@" {words} | true; exit ${{PIPESTATUS[0]}}'
        done = subprocess.run(
            ["bash", "-c", shell, "bash", *FAULTLINE], cwd=TREE, capture_output=True, check=False
        )
        assert done.stderr in (b"", b"faultline: Broken pipe\n")


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A qemu-storage-daemon with a node."""
    path = tmp_path / "qsd.qmp"
    monkeypatch.setenv("FAULTLINE_CONTROL", str(path))
    argv = ["qemu-storage-daemon", "--pidfile", str(tmp_path / "pid"), "--daemonize"]
    argv += ["--chardev", f"socket,id=c,path={path},server=on,wait=off"]
    argv += ["--monitor", "chardev=c", "--blockdev", "null-co,node-name=n,size=1048576"]
    subprocess.run(argv, check=True)
    yield
    if path.exists():
        assert main(["quit"]) == 0


def test_a_qemu(qemu: None, capsys: Captured) -> None:
    """What it does not have is left out, or said in its words."""
    assert said(capsys, "status") == "no run state\n\nThere are no drives.\n"
    assert said(capsys, "bitmap", "add", "n", "b") == "b: added\n"
    assert "b       n     0 B" in said(capsys, "bitmap", "list")
    line = "faultline: The command x-fault-add has not been found (see faultline qmp --list)\n"
    assert said(capsys, "fault", "add", "n", status=1) == line
    assert said(capsys, "fault", "list", status=1).startswith("faultline: The command x-query-f")


def test_no_event_is_kept(machine: Live, qmp: Qmp) -> None:
    """A command may follow a machine for weeks."""
    heard: list[str] = []

    async def talk() -> int:
        async with connected(machine.control, lambda event: heard.append(event.name)) as client:
            await client.stop()
            await client.cont()
            return len(client.events)

    assert asyncio.run(talk()) == 0
    assert heard == ["STOP", "RESUME"]


WRITES = "qemu-io -f raw -c 'write 0 512' -c 'write 4k 512' '{}' >/dev/null 2>&1"


def test_a_sweep_runs_a_command_for_each_request(machine: Live, capsys: Captured) -> None:
    said(capsys, "drive", "set-policy", "vda", "--werror", "report")
    told = said(
        capsys, "fault", "sweep", "vda", "--write", "--errno", "ENOSPC",
        "--run", f"{WRITES.format(machine.uri('vda'))} || test $FAULTLINE_NTH -lt 3",
    )  # fmt: skip
    assert told.splitlines() == [
        "with the 1st request hit: well",
        "with the 2nd request hit: well",
        "with none hit, as there is no 3rd request: well",
    ]
    assert said(capsys, "fault", "list") == "There are no faults.\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_sweep_that_is_ended_leaves_no_rule(how: signal.Signals, qmp: Qmp) -> None:
    words = ["fault", "sweep", "vda", "--write", "--run", "echo ready; exec sleep 600"]
    with subprocess.Popen(
        [*FAULTLINE, *words], cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as sweep, ExitStack() as stack:
        stack.callback(sweep.kill)
        assert sweep.stdout is not None
        assert sweep.stdout.readline() == "ready\n"
        assert len(qmp("x-query-faults")) == 1
        sweep.send_signal(how)
        assert sweep.wait(TIMEOUT_S) == (130 if how == signal.SIGINT else -how)
    assert qmp("x-query-faults") == []


def test_a_sweep_ends_with_what_fails(machine: Live, qmp: Qmp, capsys: Captured) -> None:
    said(capsys, "drive", "set-policy", "vda", "--werror", "report")
    sweep = ("fault", "sweep", "vda", "--write", "--run", WRITES.format(machine.uri("vda")))
    assert main(list(sweep)) == 1
    assert capsys.readouterr().out == "with the 1st request hit: exit status 1\n"
    assert main([*sweep, "--nth", "2"]) == 1
    assert capsys.readouterr().out == "with the 2nd request hit: exit status 1\n"
    assert said(capsys, *sweep, "--nth", "3").startswith("with none hit")
    torn = said(capsys, *sweep, "action=torn", "errno=0")
    assert torn.count("hit: well") == 2
    assert main([*sweep, "action=torn", "errno=0", "--limit", "2"]) == 1
    assert "not over after 2 rounds" in capsys.readouterr().err
    assert qmp("x-query-faults") == []


def test_a_sweep_behind_another_rule(machine: Live, capsys: Captured) -> None:
    said(capsys, "drive", "set-policy", "vda", "--werror", "report")
    said(capsys, "fault", "add", "vda", "--write", "--id", "first")
    sweep = ("fault", "sweep", "vda", "--write", "--run")
    assert main([*sweep, f"{WRITES.format(machine.uri('vda'))} || true"]) == 1
    out, err = capsys.readouterr()
    assert out == "with none hit, as there is no 1st request that the rule 'first' left: well\n"
    assert err.splitlines() == [
        "Warning: rule 'first' comes first, and takes all of its requests",
        "faultline: the rule 'first' comes first, and has hit all such requests: remove it before",
    ]
    said(capsys, "fault", "clear")


def test_the_help_of_a_sweep_lists_what_it_takes(capsys: Captured) -> None:
    assert main(["fault", "sweep", "--help"]) == 0
    assert not {"--after", "--count", "--rate"} & set(capsys.readouterr().out.split())
    for option in ("--after=1", "--count=1", "--rate=1"):
        assert main(["fault", "sweep", "vda", option, "--run", "true"]) == 2
        name = option.partition("=")[0]
        assert f"{name} is set by the sweep itself" in capsys.readouterr().err
