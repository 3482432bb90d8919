# SPDX-License-Identifier: MIT
"""scripts/examples/manager, run as by somebody who has copied it, and with mistakes made in it."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from live import make_image
from tree import TREE

MANAGER = TREE / "scripts" / "examples" / "manager"

TESTS = {
    f"{path.name}::{node.name}": node
    for path in sorted(MANAGER.glob("test_*.py"))
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef)
}

LINES_MAX = 25

HANG_S = 250


def run(directory: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    path = f"{TREE}/.venv/bin:{os.environ['PATH']}"
    environ = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    return subprocess.run(
        ["pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *argv],
        cwd=directory,
        env=environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=HANG_S,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy, with pytest's own files elsewhere."""
    return Path(shutil.copytree(MANAGER, tmp_path / "manager"))


@pytest.mark.slow
def test_all_in_one_run(copy: Path) -> None:
    result = run(copy, "-n", "2", f"--basetemp={copy.parent}/t")
    assert result.returncode == 0, result.stdout
    assert "milliseconds: test, of which machines" in result.stdout


@pytest.mark.parametrize("name", TESTS)
def test_each_is_short(name: str) -> None:
    node = TESTS[name]
    assert node.end_lineno is not None
    assert node.end_lineno - node.lineno < LINES_MAX


def test_there_are_enough() -> None:
    assert len(TESTS) >= 20


MISTAKES = {
    "it continues whatever is stopped": (
        'if self.machine.query_status()["status"] != "io-error":\n            self._tell',
        "if False:\n            self._tell",
        ["test_a_stop_that_nobody_asked_for"],
    ),
    "it waits until a volume is full": (
        "return self.storage.size(drive) - self.policy.headroom",
        "return self.storage.size(drive)",
        ["test_a_volume_grows_before_it_is_full"],
    ),
    "it believes the reason of an error": (
        "if self._is_full(drive):\n            self._grow",
        "if failure.nospace:\n            self._grow",
        ["test_full_is_told_though_there_is_room", "test_a_full_volume_tells_another_error"],
    ),
    "it leaves jobs that have concluded": (
        "job.dismiss()",
        "pass",
        ["test_an_incremental_backup_again_after_a_failure"],
    ),
    "it asks for a failed job's bitmap to be cleared": (
        'sync="incremental" if bitmap else "full",\n            bitmap=bitmap,',
        'sync="bitmap" if bitmap else "full",\n            bitmap=bitmap,\n'
        '            bitmap_mode="always" if bitmap else None,',
        ["test_an_incremental_backup_again_after_a_failure"],
    ),
}


@pytest.mark.parametrize(("right", "wrong", "found_by"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_found(right: str, wrong: str, found_by: list[str], copy: Path) -> None:
    replace(copy / "manager.py", right, wrong)
    replace(copy / "manager.py", "timeout_s: float = 10", "timeout_s: float = 1")
    replace(copy / "guests.py", "PATIENCE_S = 30", "PATIENCE_S = 5")
    result = run(copy, f"--basetemp={copy.parent}/t", "-k", " or ".join(found_by))
    assert result.returncode == 1, result.stdout
    for name in found_by:
        assert f"::{name} - " in result.stdout, result.stdout


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


class Store:
    """Volumes of which the manager of a real QEMU only believes that they are there."""

    def __init__(self) -> None:
        self.bytes = 8 << 20

    def size(self, volume: str) -> int:
        return self.bytes

    def extend(self, volume: str, add: int) -> None:
        self.bytes += add


def test_it_works_with_a_real_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(MANAGER)
    manager = importlib.import_module("manager")
    for name in ("disk", "copy"):
        make_image(tmp_path / name, 16 << 20)
    drive = "if=none,id=vda,file=disk,format=raw,file.node-name=vda-file,rerror=stop,werror=stop"
    argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-mon", "qmp,mode=control"]
    argv += ["-drive", drive, "-device", "virtio-blk-pci,drive=vda", "-chardev"]
    copy = {"driver": "raw", "node-name": "copy", "file": {"driver": "file", "filename": "copy"}}
    write = {"command-line": 'qemu-io vda "write 0 7M"'}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("qmp")
        listening.listen()
        argv.append(f"socket,id=qmp,server=on,wait=off,fd={listening.fileno()}")
        qemu = subprocess.Popen(argv, pass_fds=[listening.fileno()])
    with qemu:
        try:
            with manager.Manager("qmp", Store(), {"vda": "vda-file"}) as managing:
                managing.machine.execute("human-monitor-command", write)
                managing.wait("extended vda")
                managing.machine.execute("blockdev-add", copy)
                managing.migrate("vda", "copy")
        finally:
            qemu.kill()
