# SPDX-License-Identifier: MIT
"""`faultline serve` and its clients as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import nbd
import pytest

from blockcore.config.assemble import Assembly
from blockcore.process.server import Server
from live import FAULTLINE, TIMEOUT_S, Flight, Live, Qmp, make_image
from tree import TREE

MIB = 1 << 20
BLOCK = 4096
ENVIRON = {**os.environ, "PYTHONPATH": str(TREE)}


def faultline(*argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FAULTLINE, *argv],
        cwd=cwd,
        env={**ENVIRON, "TMPDIR": str(cwd), "XDG_RUNTIME_DIR": str(cwd)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def test_ready_means_ready(tmp_path: Path) -> None:
    """Both sockets accept at once, many times over, as soon as the line is there."""
    make_image(tmp_path / "d.img", MIB)
    for _ in range(5):
        with Live(tmp_path, "drive=id=vda,file=d.img,format=raw") as live:
            with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
                one.connect(live.nbd_socket)
                two.connect(live.control)
                two.settimeout(TIMEOUT_S)
                assert two.recv(8).startswith(b'{"QMP"')
            assert live.ready["control"] == live.control
            assert live.ready["drives"] == {"vda": live.uri("vda")}
            guest = nbd.NBD()
            guest.connect_uri(live.ready["drives"]["vda"])
            assert guest.get_size() == MIB
            guest.shutdown()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_without_a_drive_there_is_one(how: int, tmp_path: Path) -> None:
    """1 GiB, sparse, in a private directory that goes with the machine."""
    private = tmp_path / "private"
    private.mkdir()
    process = subprocess.Popen(
        [*FAULTLINE, "serve"],
        env={**ENVIRON, "TMPDIR": str(private)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    assert list(ready["drives"]) == ["vda"]
    guest = nbd.NBD()
    guest.connect_uri(ready["drives"]["vda"])
    assert guest.get_size() == 1 << 30
    guest.pwrite(b"x" * BLOCK, (1 << 30) - BLOCK)
    with Qmp.connect(ready["control"]) as qmp:
        qmp("x-fault-add", node_name="vda", iotype="write", errno="ENOSPC", count=1)
        flight = Flight()
        write = flight.write(guest, 0, b"y" * BLOCK)
        flight.poll(0)
        qmp.wait_event("STOP")
        assert qmp("query-block")[0]["io-status"] == "nospace"
        qmp("cont")
        assert flight.land(write) == ["OK"]
    assert len(list(private.iterdir())) == 1
    process.send_signal(how)
    assert process.wait(TIMEOUT_S) == 0
    assert process.stdout.read() == b"", "one line and no more"
    process.stdout.close()
    assert list(private.iterdir()) == []


WRONG = {
    "unknown-key": (["nonsense=1"], "nonsense"),
    "bad-policy": (
        ["drive=id=a,driver=null-co,werror=bogus"],
        "'bogus' invalid write error action",
    ),
    "rerror-enospc": (
        ["drive=id=a,driver=null-co,rerror=enospc"],
        "'enospc' invalid read error action",
    ),
    "no-such-file": (["drive=id=a,file=nope.img,format=raw"], "Could not open 'nope.img'"),
    "duplicate": (["drive=id=a,driver=null-co", "drive=id=a,driver=null-co"], "drive=id=a"),
    "bad-prelaunch": (["drive=id=a,driver=null-co", "prelaunch=maybe"], "prelaunch"),
    "bad-json": (["drive=id=a,driver=null-co", "blockdev={"], "blockdev"),
    "seed twice": (["drive=id=a,driver=null-co", "seed=1", "seed=2"], "seed=2: Parameter 'seed'"),
    "control-directory": (["drive=id=a,driver=null-co", "control=no/such/dir"], "control"),
}


@pytest.mark.parametrize("keys", WRONG.values(), ids=WRONG)
def test_wrong_keys(keys: tuple[list[str], str], tmp_path: Path) -> None:
    """One line that names the key, status 1, and nothing left behind."""
    words, text = keys
    done = faultline("serve", "--nbd", "n.sock", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert text in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nodes_without_a_drive(tmp_path: Path) -> None:
    """There are jobs for them; that nothing is served is said."""
    with Live(tmp_path, "blockdev=null-co,node-name=n") as live, live.qmp() as qmp:
        assert live.ready["drives"] == {}
        assert qmp("query-named-block-nodes")[0]["node-name"] == "n"
    first = json.loads(live.log.read_text().splitlines()[0])
    assert (first["level"], first["event"][:20]) == ("warning", "there is no drive to")


def test_without_libnbd(tmp_path: Path) -> None:
    """Only the driver nbd misses it."""
    (tmp_path / "nbd.py").write_text("raise ImportError")
    serve = ["serve", "--nbd", "n.sock", "drive=id=a,driver=null-co"]
    done = subprocess.run(
        [*FAULTLINE, *serve, "drive=id=b,driver=nbd,server.type=unix,server.path=b.sock"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{TREE}:{tmp_path}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("faultline: drive=id=b,")
    assert "The driver 'nbd' needs libnbd's module for Python 3." in done.stderr
    assert done.stderr.count("\n") == 1


def test_tcp(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*FAULTLINE, "serve", "--port", "0", "--control", str(tmp_path / "q")]
        + ["drive=id=d,driver=null-co,size=1M"],
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
    guest = nbd.NBD()
    guest.connect_uri(json.loads(line)["drives"]["d"])
    assert guest.get_size() == MIB
    held = nbd.NBD()
    held.connect_uri(json.loads(line)["drives"]["d"])
    with Qmp.connect(str(tmp_path / "q")) as qmp:
        qmp("stop")
        flight = Flight()
        read = flight.read(guest, 0, BLOCK)
        flight.poll(0)
    process.terminate()
    assert process.wait(TIMEOUT_S) == 0
    assert flight.land(read)[0] in ("ESHUTDOWN", "ENOTCONN")


def test_qmp_command(tmp_path: Path) -> None:
    make_image(tmp_path / "d.img", MIB)
    with Live(tmp_path, "drive=id=vda,file=d.img,format=raw") as live:

        def command(*words: str) -> subprocess.CompletedProcess[str]:
            return faultline("qmp", "-s", live.control, *words, cwd=tmp_path)

        assert json.loads(command("query-status").stdout)["status"] == "running"
        added = command("x-fault-add", "node-name=vda", "errno=ENOSPC", "iotype=write", "id=f")
        assert json.loads(added.stdout) == {"id": "f"}
        failed = command("block_resize", "device=nope", "size=1")
        assert failed.returncode == 1
        assert "Cannot find device='nope'" in failed.stderr and failed.stdout == ""
        assert command("quit").returncode == 0
        assert live.process.wait(TIMEOUT_S) == 0


def test_events_command(tmp_path: Path) -> None:
    with Live(tmp_path, "drive=id=vda,driver=null-co") as live, live.qmp() as qmp:
        follower = subprocess.Popen(
            [*FAULTLINE, "events", "-s", live.control],
            env=ENVIRON,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert follower.stdout is not None
        # It says nothing when it has connected: stop and go on until it has seen both.
        seen = threading.Event()
        lines: list[str] = []

        def read() -> None:
            assert follower.stdout is not None
            for line in follower.stdout:
                lines.append(line)
                if len(lines) > 1:
                    seen.set()

        reader = threading.Thread(target=read)
        reader.start()
        while not seen.is_set():
            qmp("stop")
            qmp("cont")
        live.stop()
        assert follower.wait(TIMEOUT_S) == 0
        reader.join()
        follower.stdout.close()
    names = [json.loads(line)["event"] for line in lines]
    assert set(names[:-1]) == {"STOP", "RESUME"} and names[-1] == "SHUTDOWN"


def test_a_bug_is_not_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """nbdkit, which would tell it, was told to be silent."""

    async def fails(_assembly: Assembly, _drive: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Assembly, "add_drive", fails)
    server = Server({"FAULTLINE_SERVE": "1"}, str(tmp_path))
    server.config("drive", "id=a,driver=null-co")
    server.config_complete()
    with pytest.raises(ZeroDivisionError):
        server.get_ready()
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(path.stat().st_mode & 1 for path in TREE.parents),
    reason="becomes somebody who may read this tree and not write an image",
)
@pytest.mark.parametrize(
    ("keys", "which"),
    [
        (["drive=id=vda,file=d.img,format=raw"], 0),
        (["drive=id=vda,file=d.img"], 0),
        (["drive=id=vda,file=blkdebug::d.img,format=raw"], 0),
        (["blockdev=file,node-name=n,filename=d.img", "device=virtio-blk,drive=n"], 0),
        (
            [
                "blockdev=file,node-name=n,filename=d.img,auto-read-only=on",
                "device=virtio-blk,drive=n",
            ],
            1,
        ),
    ],
)
def test_an_image_that_its_user_may_not_write(
    keys: list[str], which: int, common_path: Path
) -> None:
    """It is not that anybody has made it read-only; the words are QEMU's."""
    make_image(common_path / "d.img", MIB).chmod(0o444)

    def start(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FAULTLINE, "serve", "control=q", *keys, *more],
            cwd=common_path,
            env={**ENVIRON, "TMPDIR": "/tmp"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            user=65534,
            group=65534,
            extra_groups=[],
        )

    done = start()
    assert done.returncode == 1
    reason = "Could not open 'd.img': Permission denied"
    assert done.stderr.splitlines()[-1] == f"faultline: {keys[which]}: {reason}"
