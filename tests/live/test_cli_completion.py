# SPDX-License-Identifier: MIT
"""What bash completes, with the script that `faultline completion` prints."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockcore.cli import main
from live import FAULTLINE, TIMEOUT_S, Live
from tree import TREE

SCRIPT = """
faultline() { "${command[@]}" "$@"; }
command=("$@")
eval "$(faultline completion bash)"
# The script asks by env, which runs programs only.
env() { while [[ $1 == *=* ]]; do local -x "$1"; shift; done; "$@"; }
compopt() { local IFS=' '; echo "compopt $*"; }
COMP_WORDS=(faultline $WORDS)
[[ $WORDS == *' ' ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_faultline_completion faultline
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    drives = [f"drive=id={name},driver=null-co,size=1M" for name in ("vda", "vdb", "other")]
    with Live(tmp_path_factory.mktemp("machine"), *drives) as live, live.qmp() as qmp:
        qmp("x-fault-add", node_name="vda", id="slow")
        qmp("block-dirty-bitmap-add", node="vda", name="b0")
        yield live.control


def completed(words: str, control: str = "") -> list[str]:
    environ = {**os.environ, "PYTHONPATH": str(TREE), "WORDS": words, "FAULTLINE_CONTROL": control}
    done = subprocess.run(
        ["bash", "-c", SCRIPT, "bash", *FAULTLINE],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("st", ["status", "stop"]),
        ("fault m", ["modify"]),
        ("qmp x-fault-m", ["x-fault-modify"]),
        ("qmp x-fault-add iot", ["compopt -o nospace", "iotype="]),
        ("qmp nonsense ", [""]),
        ("serve dri", ["compopt -o nospace", "drive="]),
        ("events block_io", ["BLOCK_IO_ERROR"]),
        ("wait ST", ["STOP"]),
        ("completion z", ["zsh"]),
        ("fault add vd", [""]),
    ],
)
def test_without_a_machine(words: str, expected: list[str]) -> None:
    assert completed(words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("fault add vd", ["vda", "vdb"]),
        ("fault remove ", ["slow"]),
        ("bitmap clear vda ", ["b0"]),
        ("job wait ", [""]),
        ("qmp query-vers", ["query-version"]),
    ],
)
def test_with_a_machine(words: str, expected: list[str], control: str) -> None:
    assert completed(words, control) == expected


def test_with_a_machine_that_is_named(control: str) -> None:
    assert completed(f"drive set-policy -s {control} o") == ["other"]


def test_without_an_answer(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert completed("fault add vd", str(tmp_path / "file")) == [""]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert f"_FAULTLINE_COMPLETE={shell}_complete" in capsys.readouterr().out
