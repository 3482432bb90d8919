# SPDX-License-Identifier: MIT
"""A machine is recorded and replayed: nothing differs, until the recording is tampered with."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import nbd
import pytest

from blockcore.cli import main
from faultline.errors import FaultlineError
from faultline.recording import BadRecording, parse
from faultline.sync.replay import Replay
from live import FAULTLINE, TIMEOUT_S, Live, Qmp
from qcow2_images import create
from recorded import record

MIB = 1 << 20
BLOCK = 4096

Line = dict[str, Any]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def tampered(recording: Path, tmp_path: Path) -> Callable[[Callable[[list[Line]], None]], Path]:
    """A copy of the recording, whose lines have been changed by a function."""

    def tamper(change: Callable[[list[Line]], None]) -> Path:
        lines = [json.loads(line) for line in recording.read_text().splitlines()]
        change(lines)
        path = tmp_path / "tampered.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return path

    return tamper


def faultline(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["replay", *words])
    out, err = capsys.readouterr()
    return status, out + err


def agreed(text: str) -> bool:
    """Whether a replay went to the end, and nothing else was said."""
    return re.fullmatch(r"\S+: \d+ lines, no divergence\n", text) is not None


def test_nothing_differs(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    hit = {rule for line in lines for rule in line.get("rules", ())}
    assert hit >= {f"fault{number}" for number in range(6)}
    assert any("fault" in line for line in lines), "of the job's target"
    status, text = faultline(capsys, str(recording))
    assert (status, agreed(text)) == (0, True), text


def at(lines: list[Line], **members: Any) -> int:
    """The place of the first line with these members."""
    return next(n for n, line in enumerate(lines) if members.items() <= line.items())


def changed_errno(lines: list[Line]) -> tuple[int, str]:
    place = next(n for n, line in enumerate(lines) if line.get("errno") == 1)
    lines[place]["errno"] = 28
    return place, "recorded ENOSPC (No space left on device), replayed EPERM"


def changed_digest(lines: list[Line]) -> tuple[int, str]:
    place = next(n for n, line in enumerate(lines) if "digest" in line)
    lines[place]["digest"] ^= 1
    return place, f"has read: recorded digest {lines[place]['digest']}, replayed digest "


def changed_event(lines: list[Line]) -> tuple[int, str]:
    place = at(lines, event="BLOCK_IO_ERROR")
    lines[place]["data"]["reason"] = "Out of luck"
    return place, 'event BLOCK_IO_ERROR: recorded BLOCK_IO_ERROR {"device": "vda"'


def changed_hit(lines: list[Line]) -> tuple[int, str]:
    """Of a dropped write its client sees nothing."""
    place = next(n for n, line in enumerate(lines) if line.get("rules") == ["fault3"])
    del lines[place]["rules"]
    return place, "recorded none, replayed fault3"


def changed_rule(lines: list[Line]) -> tuple[int, str]:
    """Another errno of the rule for reads: what differs is the event of the first that it hits.

    Which kind of request another rule hits before that is for the threads to decide.
    """
    command = lines[at(lines, execute="x-fault-add")]
    command["arguments"]["errno"] = "EINVAL"
    place = next(
        n for n, line in enumerate(lines)
        if line.get("event") == "BLOCK_IO_ERROR" and line["data"]["operation"] == "read"
    )
    return place, '"reason": "Invalid argument"'


@pytest.mark.parametrize(
    "change",
    [changed_errno, changed_digest, changed_event, changed_hit, changed_rule],
    ids=lambda change: change.__name__,
)
def test_the_first_difference(
    change: Callable[[list[Line]], tuple[int, str]],
    tampered: Callable[[Callable[[list[Line]], object]], Path],
) -> None:
    told: list[tuple[int, str]] = []
    path = tampered(lambda lines: told.append(change(lines)))
    place, text = told[0]
    with path.open("rb") as lines:
        recording = parse(path.name, lines)
    # What differs from an event whose equals are yet to come is told after so long.
    player = Replay(recording, patience=3.0)
    try:
        with pytest.raises(FaultlineError) as caught:
            player.run()
    finally:
        player.close()
    assert text in str(caught.value)
    assert str(caught.value).startswith(f"line {place + 1}: ")


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_a_recording_of_a_release(release: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was recorded on one is replayed on the other: tests run on both."""
    path = Path(__file__).parent / "recordings" / f"{release}.jsonl"
    status, text = faultline(capsys, str(path))
    assert (status, agreed(text)) == (0, True), text


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_replay_that_is_ended_leaves_nothing(
    how: signal.Signals, recording: Path, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [*FAULTLINE, "replay", str(recording), "--until", "2", "--keep"],
        env={**os.environ, "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as replay, ExitStack() as stack:
        stack.callback(replay.kill)
        assert replay.stdout is not None
        assert "no divergence up to line 2" in replay.stdout.readline()
        assert "control" in json.loads(replay.stdout.readline())
        assert list(tmp_path.iterdir()) != []
        replay.send_signal(how)
        assert replay.wait(TIMEOUT_S) == (0 if how == signal.SIGINT else -how)
    assert list(tmp_path.iterdir()) == []


def test_until(recording: Path) -> None:
    """A request hangs there, and the machine stays for a look."""
    lines = [json.loads(line) for line in recording.read_text().splitlines()]
    # By its answer the request has come; it may have come after the command.
    command = lines[at(lines, execute="x-fault-wait")]["command"]
    until = at(lines, reply=command) + 1
    with recording.open("rb") as file:
        player = Replay(parse(recording.name, file), until=until)
    try:
        player.run()
        assert player.at == until
        assert [request.iotype for request in player.in_flight()] == ["read"]
        player.let_go()
        with Qmp.connect(player.ready["control"]) as qmp:
            (request,) = qmp.execute("x-query-requests")
            assert request["iotype"] == "read"
            qmp.execute("quit")
        player.ended()
    finally:
        player.close()


def test_a_recording_that_was_cut_off(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.jsonl"
    text = recording.read_bytes()
    path.write_bytes(b"".join(text.splitlines(keepends=True)[:9]) + b'{"ms":1,"requ')
    status, told = faultline(capsys, str(path))
    assert status == 0
    assert f"{path}: it was cut off: it has no last line" in told
    assert "9 lines, no divergence" in told


def held_and_gone(live: Live) -> None:
    """A guest goes away while its request is held; later one has its disk full, and goes on."""
    with live.qmp() as qmp, live.guest() as other:
        guest = nbd.NBD()
        guest.connect_uri(live.uri())
        guest.pwrite(b"first" * 100, 0)
        qmp.execute("x-fault-add", {"node-name": "vda", "iotype": "write", "count": 2})
        guest.aio_pwrite(b"gone" * 128, 0)
        qmp.wait_event("STOP")
        del guest
        while qmp.execute("x-query-requests"):
            pass
        qmp.execute("cont")
        cookie = other.aio_pwrite(b"stays" * 100, 512)
        qmp.wait_event("STOP")
        qmp.execute("cont")
        while not other.aio_command_completed(cookie):
            other.poll(-1)
        other.pread(2048, 0)


@pytest.mark.parametrize(
    ("format", "data"), [("raw", "on"), ("qcow2", "on"), ("qcow2", "off")]
)
def test_a_guest_that_goes_away(
    format: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "disk.img"
    if format == "raw":
        image.write_bytes(b"old" * 1000 + bytes(MIB - 3000))
    else:
        create(image, MIB)
    kept = tmp_path / "kept.img"
    shutil.copy(image, kept)
    drive = f"drive=id=vda,file=disk.img,format={format},werror=stop"
    with Live(tmp_path, drive, "record=run.jsonl", f"record-data={data}") as live:
        held_and_gone(live)
    path = str(tmp_path / "run.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert any(line.get("gone") for line in lines)
    image.unlink()
    if (format, data) == ("qcow2", "off"):
        status, told = faultline(capsys, path)
        assert status == 1
        assert "does not have what was in disk.img, which is no plain disk" in told
        status, told = faultline(capsys, path, "--drive", f"vda={kept}")
    else:
        status, told = faultline(capsys, path)
    assert (status, agreed(told)) == (0, True), told


def test_files_that_rules_look_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They come and go as they did, and not where they were."""
    (tmp_path / "disk.img").write_bytes(bytes(MIB))
    flag, closed = tmp_path / "made" / "flag", tmp_path / "closed"
    flag.parent.mkdir()
    rules = (
        f"fault=node-name=vda,iotype=write,while-file={flag}",
        f"fault=node-name=vda,iotype=connect,while-file={closed}",
    )
    drive = "drive=id=vda,file=disk.img,format=raw,werror=stop"
    with Live(tmp_path, drive, *rules, "record=run.jsonl") as live, live.qmp() as qmp:
        with live.guest() as guest:
            guest.pwrite(bytes(BLOCK), 0)
            for _ in range(2):
                flag.touch()
                cookie = guest.aio_pwrite(bytes(BLOCK), BLOCK)
                qmp.wait_event("STOP")
                flag.unlink()
                qmp.execute("cont")
                while not guest.aio_command_completed(cookie):
                    guest.poll(-1)
            closed.touch()
            with pytest.raises(nbd.Error), live.guest():
                pass
            closed.unlink()
            with live.guest() as other:
                other.pwrite(bytes(BLOCK), 0)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    seen = [line["exists"] for line in lines if line.get("file") == str(flag)]
    assert seen == [False, True, False, True, False]
    flag.parent.rmdir()
    status, text = faultline(capsys, str(tmp_path / "run.jsonl"))
    assert (status, agreed(text)) == (0, True), text
    assert not flag.parent.exists()


def moved(lines: list[Line]) -> None:
    """The rule for writes is one for other blocks: nothing is hit."""
    command = lines[at(lines, execute="x-fault-add")]
    command["arguments"].update({"offset": 512 << 10, "length": 512})


@pytest.mark.parametrize("policy", ["report", "stop"])
def test_an_error_that_does_not_come_is_told_at_once(policy: str, tmp_path: Path) -> None:
    """Of whom it should have come is over: nobody waits for the event for long."""
    (tmp_path / "disk.img").write_bytes(bytes(MIB))
    drive = f"drive=id=vda,file=disk.img,format=raw,werror={policy}"
    with Live(tmp_path, drive, "record=run.jsonl") as live:
        with live.qmp() as qmp, live.guest() as guest:
            qmp.execute("x-fault-add", {"node-name": "vda", "iotype": "write", "count": 1})
            cookie = guest.aio_pwrite(bytes(BLOCK), 0)
            qmp.wait_event("BLOCK_IO_ERROR")
            if policy == "stop":
                qmp.wait_event("STOP")
                qmp.execute("cont")
            with suppress(nbd.Error):
                while not guest.aio_command_completed(cookie):
                    guest.poll(-1)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    moved(lines)
    text = [json.dumps(line).encode() + b"\n" for line in lines]
    player = Replay(parse("r", text), patience=TIMEOUT_S * 10)
    try:
        with pytest.raises(FaultlineError) as caught:
            player.run()
    finally:
        player.close()
    if policy == "report":
        assert "recorded EIO (Input/output error), replayed success" in str(caught.value)
    else:
        assert "replayed none: request 1 (write" in str(caught.value)


@pytest.mark.parametrize("name", ["run.jsonl", "absolute.jsonl"])
def test_an_image_is_named_as_it_was_given(
    name: str, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with it: it is not there, it is no file, its format is another one."""
    text = recording.read_text().replace("format=raw", "format=qcow2")
    if name == "absolute.jsonl":
        text = text.replace("file=disk.img", "file=/d/disk.img")
        text = text.replace('"filename":"disk.img"', '"filename":"/d/disk.img"')
    path = tmp_path / name
    path.write_text(text)
    (tmp_path / "raw.img").write_bytes(bytes(MIB))
    for image, reason in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "raw.img", "Image is not in qcow2 format"),
    ):
        status, told = faultline(capsys, str(path), "--drive", f"vda={image}")
        assert status == 1
        given = f"file={image}," if image.is_file() else f"Could not open '{image}': "
        assert given in told and reason in told
        assert "disk.img" not in told


def test_no_recording(tmp_path: Path) -> None:
    for text, message in (
        (b"", "it is no recording"),
        (b"\0disk", "it is no recording"),
        (b'{"faultline-recording": 2}\n', "of version 2, and this is for version 1"),
        (b'{"faultline-recording": 1}\n', "the header has no 'keys'"),
    ):
        with pytest.raises(BadRecording, match=message):
            parse("x", text.splitlines(keepends=True))
