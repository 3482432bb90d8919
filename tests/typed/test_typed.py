# SPDX-License-Identifier: MIT
"""What people type who do not know yet what is right, and what the answer must say.

The command lines are in the files beside this one: those that newcomers have typed,
and more of the kind.  Each begins with ``$``, and is followed by the exit status and a
text that the answer has; each further line with ``+`` has another such text.

All of them run in this process.  Where `faultline serve` would become nbdkit, the
configuration is read here, and what it names is opened, as nbdkit's plugin does.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from blockcore.cli import main
from blockcore.cli.launch import Launch
from blockcore.process.server import Server
from blockcore.qapi.names import QmpError
from live import Live

HERE = Path(__file__).parent

FILES = {
    "bad1.conf": '[inject-error]\nevent="read_aio"\n',
    "bad2.conf": 'event = "read_aio"\n',
    "bad3.conf": '# rules\n[inject-eror]\nevent = "read_aio"\n',
    "bad4.conf": '[inject-error]\nevent = "read_aoi"\n',
    "bad5.conf": '# rules\n\n[inject-error]\nevent = "read_aio"\nerno = "5"\n',
    "bad1.faults": "# rules\nvda\nvda,iotype=writes\n",
    "bad2.faults": "vdb\n",
    "good.faults": "vda,id=from-a-file,iotype=read,offset=8k,length=512,errno=EIO,count=1\n",
    "rule.yaml": "steps:\n- repeat: 2\n  steps:\n  - fault: {node-name: vda, action: delay}\n",
    "twice.yaml": "faults:\n- {id: a, node-name: v}\n- {id: a, node-name: v}\nsteps:\n- stop\n",
    "refused.yaml": "steps:\n- fault: {node-name: vda, rate: 2}\n  error: number between\n",
    "good.yaml": "steps:\n- stop\n- wait: STOP\nends: paused\n",
    "bad1.yaml": "about: a\nsteps:\n- wiat: STOP\n",
    "bad2.yaml": "drives:\n- {id: vda, size: 1M, werorr: stop}\nsteps: []\n",
    "bad3.yaml": "about: a\nsteps:\n- wait: {event: BLOCK_IO_ERROR, reson: x}\n",
    "bad4.yaml": "steps:\n- wait: {event: STOP\n",
    "bad5.yaml": "drives:\n- {id: vda, size: 1M}\n- {id: vda, size: 1M}\nsteps: []\n",
}
"""Files of blkdebug rules, of rules, and of scenarios; the bad ones have a mistake each."""


@dataclass
class Typed:
    """A command line, its exit status, and the texts that the answer has."""

    line: str
    status: int = -1
    texts: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line)[1:]


def read(name: str) -> list[Typed]:
    found: list[Typed] = []
    for number, line in enumerate((HERE / name).read_text().splitlines(), 1):
        kind, _, rest = line.partition(" ")
        if kind == "$":
            found.append(Typed(rest))
        elif kind == "+":
            found[-1].texts.append(rest)
        elif kind.isdigit():
            found[-1].status = int(kind)
            found[-1].texts.append(rest)
        else:
            assert not line or kind == "#", f"{name}, line {number}"
    assert all(one.texts for one in found), name
    return found


def cases(name: str) -> list[object]:
    return [pytest.param(one, id=one.line.removeprefix("faultline ")) for one in read(name)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with images, files of rules, and a machine with the sockets m.nbd and m.qmp."""
    directory = tmp_path_factory.mktemp("typed")
    for name, text in FILES.items():
        (directory / name).write_text(text)
    for name in ("d.img", "disk.img"):
        (directory / name).write_bytes(bytes(1 << 20))
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", directory / "q.qcow2", "16M"], check=True
    )
    drive = "drive=id=vda,file=disk.img,format=raw,rerror=stop,werror=enospc"
    node = "blockdev=driver=null-co,node-name=node0"
    with Live(directory, drive, node) as machine:
        (directory / "m.qmp").symlink_to(machine.control)
        (directory / "m.nbd").symlink_to(machine.nbd_socket)
        with machine.qmp() as qmp:
            qmp("x-fault-add", node_name="node0", id="fault0")
        yield directory


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("FAULTLINE_CONTROL", "m.qmp")
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setattr(Launch, "become", configure)


def configure(launch: Launch) -> None:
    """Read the pairs of nbdkit's command line, open what they name, and say that it serves."""
    at = launch.argv.index("python") + 2
    server = Server({"FAULTLINE_LOG": "json"}, os.getcwd())
    try:
        for pair in launch.argv[at:]:
            server.config(*pair.split("=", 1))
        server.config_complete()
        server.get_ready()
    except QmpError as exc:
        raise click.ClickException(str(exc)) from exc
    finally:
        launch.close()
    if server._listener is not None:
        server._listener.close()
    click.echo("serves")
    raise click.exceptions.Exit(0)


def answered(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(typed.words)
    out, err = capsys.readouterr()
    answer = out + err
    for text in typed.texts:
        assert text in answer
    assert status == typed.status
    assert out or len(err.splitlines()) == 1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("typed", cases("qmp.txt"))
def test_qmp(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    answered(typed, capsys)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("typed", cases("command.txt"))
def test_other_commands(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    answered(typed, capsys)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("typed", [*cases("steering.txt"), *cases("fault_files.txt")])
def test_steering(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    answered(typed, capsys)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("typed", cases("scenario.txt"))
def test_scenario(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    answered(typed, capsys)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("typed", [*cases("serve.txt"), *cases("fault_keys.txt")])
def test_serve(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    answered(typed, capsys)
