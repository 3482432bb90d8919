# SPDX-License-Identifier: MIT
"""Recorded command lines of real QEMU and qemu-io, through real processes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from live import FAULTLINE, TIMEOUT_S, Live, make_image
from tree import RECORDINGS, TREE

Case = dict[str, Any]

REFUSED_DRIVES: list[Case] = json.loads((RECORDINGS["7.2"] / "cli-errors.json").read_text())
RULES: list[Case] = json.loads((RECORDINGS["7.2"] / "blkdebug-cli.json").read_text())

CANNOT_OPEN = "qemu-io: can't open: "

HINT = r"((: it is|, did you mean) .*)?( \(c\.conf, line \d+\))?\n"
"""What may stand behind QEMU's words: the right answers, and the place in the file."""

NOT_THE_SAME = {
    "block-status iotype": "qemu-io's map and alloc do not show an NBD server's errors as it does",
    "errno as name": "names of errors are accepted here",
}
"""Recorded experiments that mean something else here, and why."""


def refusal(directory: Path, *keys: str) -> str:
    """What `serve` has to say about keys that it refuses."""
    result = subprocess.run(
        [*FAULTLINE, "serve", "--nbd", "nbd.sock", "--control", "qmp.sock", *keys],
        cwd=directory,
        env={"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "PYTHONPATH": str(TREE)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert result.returncode == 1, result
    return result.stderr


@pytest.mark.parametrize("case", REFUSED_DRIVES, ids=lambda case: " ".join(case["args"]))
def test_options(case: Case, tmp_path: Path) -> None:
    make_image(tmp_path / "d.raw", 1 << 20)
    options, values = case["args"][::2], case["args"][1::2]
    keys = [f"{name[1:]}={value}" for name, value in zip(options, values, strict=True)]
    if case["rc"] == 0:
        with Live(tmp_path, *keys):
            return
    message = case["stderr"].removeprefix(f"qemu-system-x86_64: {options[-1]} {values[-1]}: ")
    assert message != case["stderr"]
    expected = re.escape(f"faultline: {keys[-1]}: {message}") + HINT
    assert re.fullmatch(expected, refusal(tmp_path, *keys))


@pytest.mark.parametrize("case", RULES, ids=lambda case: str(case["test"]))
def test_rules(case: Case, tmp_path: Path) -> None:
    """qemu-io sees over NBD what it saw when the rules were in its own process."""
    if case["test"] in NOT_THE_SAME:
        pytest.skip(NOT_THE_SAME[case["test"]])
    make_image(tmp_path / "d.raw", 4 << 20)
    (tmp_path / "c.conf").write_text(case["config"])
    _, _, options, *commands = case["argv"]
    key = f"drive=if=none,id=d,rerror=report,werror=report,{options}"
    if case["output"][0].startswith(CANNOT_OPEN):
        message = case["output"][0].removeprefix(CANNOT_OPEN)
        expected = re.escape(f"faultline: {key}: {message}") + HINT
        assert re.fullmatch(expected, refusal(tmp_path, key))
        return
    with Live(tmp_path, key) as live:
        result = subprocess.run(
            ["qemu-io", "-f", "raw", *commands, live.uri("d")],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    said = re.findall(r"^(?:\w+ \d+/\d+ bytes .*|.* failed: .*)$", result.stdout, re.MULTILINE)
    assert (said, result.returncode) == (case["output"], case["exit"])
