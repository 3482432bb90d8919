# SPDX-License-Identifier: MIT
"""`faultline scenario` as it is typed: the machine, the command beside it, the exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockcore.cli import main
from live import FAULTLINE, Live, make_image

QUICK = """
drives:
  - {id: vda, size: 1M, rerror: stop, werror: stop}
faults:
  - {id: f, node-name: vda, iotype: write, errno: EIO, count: 1}
steps:
  - wait: {event: BLOCK_IO_ERROR, device: vda, action: stop}
  - wait: STOP
  - cont
  - wait: RESUME
"""

GUEST = 'exec qemu-io -f raw -c "write 0 4k" "$uri"'

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Typed:
    """Runs a command line in this process: its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["scenario", *words])
        out, err = capfd.readouterr()
        return status, out, err

    return run


def test_a_command_that_it_passes_with(typed: Typed) -> None:
    Path("quick.yaml").write_text(QUICK)
    look = f'test -S "$unixsocket" -a -S "$FAULTLINE_CONTROL" && {GUEST}'
    status, out, err = typed("quick.yaml", "--", "sh", "-c", look)
    assert (status, err.splitlines()[-1][:22]) == (0, "quick: passed, 4 steps")
    assert "wrote 4096/4096" in out and "drives" not in out


@pytest.fixture
def there(typed: Typed, tmp_path: Path) -> Iterator[Live]:
    """A machine that is there, whose directory is the current one."""
    make_image(tmp_path / "disk.img", 1 << 20)
    with Live(tmp_path, "drive=id=vda,file=disk.img,format=raw,werror=stop") as machine:
        yield machine


def test_on_a_machine_that_is_there(typed: Typed, there: Live) -> None:
    """Nothing is started but the command, and nothing is ended but what was started."""
    Path("quick.yaml").write_text(QUICK.replace("  - cont\n", "") + "    within: 200ms\n")
    guest = GUEST.replace("$uri", there.uri("vda"))
    status, out, err = typed("quick.yaml", "-s", there.control, "--", "sh", "-c", guest)
    assert (status, out) == (1, "")
    lines = err.splitlines()
    assert lines[0] == "quick: failed: no RESUME came within 0.2 s"
    assert lines[1] == "  quick.yaml, line 9, steps[2]: wait: RESUME, within: 200ms"
    assert lines[3] == "  the machine is io-error"
    assert lines[-1].startswith("  the command, sh -c ") and lines[-1].endswith(" still ran")

    Path("none.yaml").write_text("steps: []\nends: io-error")
    to_it = ("none.yaml", "-s", there.control)
    status, _, err = typed(*to_it, "--", "sh", "-c", "exit 5")
    assert (status, err) == (
        5,
        "none: all steps passed, but the command, sh -c 'exit 5', had ended with status 5\n",
    )
    status, _, err = typed(*to_it, "--", "no-such-program")
    assert (status, err) == (1, "faultline: no-such-program: No such file or directory\n")

    Path("wait.yaml").write_text("steps: [{wait: RESET}]")
    words = ("wait.yaml", "-s", there.control, "--timeout", "0.2", "--", "sleep", "60")
    status, _, err = typed(*words)
    lines = err.splitlines()
    assert (status, lines[0]) == (124, "wait: failed: not over within 0.2 s")
    assert lines[1] == "  wait.yaml, line 1, steps[0]: wait: RESET"
    assert lines[-1] == "  the command, sleep 60, still ran"

    for rules, text in (
        ("[{node-name: vda}, {node-name: vdb}]", "f.yaml: line 1: faults[1]: Cannot find device="),
        ("r.faults", "r.faults:2: Cannot find device='vdb'"),
        ("s.faults", "s.faults: No such file or directory"),
    ):
        Path("f.yaml").write_text(f"faults: {rules}\nsteps: []")
        Path("r.faults").write_text("vda\nvdb\n")
        status, _, err = typed("f.yaml", "-s", there.control)
        assert status == 1 and err.startswith(f"faultline: {text}"), err
    status, _, err = typed("none.yaml", "--socket", "no.qmp")
    assert (status, err) == (1, "faultline: no.qmp: No such file or directory\n")
    Path("f.yaml").write_text("steps: [{fault: {node-name: vda}}]\nends: any")
    assert typed("f.yaml", "-s", there.control)[0] == 0
    with there.qmp() as qmp:
        assert qmp("x-query-faults") == []
        assert qmp("query-status")["status"] == "io-error"
        qmp("cont")


def test_without_a_command_until_it_is_told_to_end(tmp_path: Path) -> None:
    (tmp_path / "wait.yaml").write_text(f'{QUICK}  - run: echo "$uri"; sleep 60\n  - wait: RESET')
    process = subprocess.Popen(
        [*FAULTLINE, "scenario", "wait.yaml", "--nbd", "n", "--timeout", "60"],
        cwd=tmp_path,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    ready = json.loads(process.stdout.readline())
    assert ready["drives"] == {"vda": f"nbd+unix:///vda?socket={tmp_path}/n"}
    subprocess.run(
        ["qemu-io", "-f", "raw", "-c", "write 0 4k", ready["drives"]["vda"]],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    assert process.stderr.readline() == f"nbd+unix:///vda?socket={tmp_path}/n\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (143, "", "faultline: ended by SIGTERM\n")
    assert [path.name for path in tmp_path.iterdir()] == ["wait.yaml"]


def test_a_machine_that_does_not_start(typed: Typed) -> None:
    Path("bad.yaml").write_text("drives:\n- {file: none.img}\nsteps: []")
    status, _, err = typed("bad.yaml", "--", "true")
    assert (status, err) == (
        1,
        "faultline: bad.yaml: line 2: drives[0]: Could not open 'none.img': "
        "No such file or directory\n",
    )


def test_a_disk_without_room(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *FAULTLINE, "scenario", "quick.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "faultline: quick.yaml: line 3: drives[0]: File too large\n"
