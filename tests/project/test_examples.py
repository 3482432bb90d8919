# SPDX-License-Identifier: MIT
"""scripts/examples, run as by somebody who has copied them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from live import TIMEOUT_S, Live
from tree import TREE

EXAMPLES = TREE / "scripts" / "examples"

PRINTED = [
    "failed: No space left on device",
    "status: io-error, nospace",
    "the writer waits",
    "status: running, ok",
    "content: right",
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory in which one can type what is typed at the top of the tree."""
    for name in ("scripts", ".venv"):
        (tmp_path / name).symlink_to(TREE / name)
    return tmp_path


def recipe(name: str, start: str) -> str:
    """The lines of an example that begin so: how it is run. The machine's log goes to a file."""
    lines = [
        line.removeprefix(start)
        for line in (EXAMPLES / name).read_text().splitlines()
        if line.startswith(start)
    ]
    assert lines
    return "\n".join(["set -e; exec 2>log", *lines])


def run(
    directory: Path, *argv: str | Path, stdin: Path | None = None, status: int = 0, **environ: str
) -> str:
    """Run a program with .venv/bin on PATH, as the README says; what it prints."""
    path = f"{TREE}/.venv/bin:{os.environ['PATH']}"
    with open(stdin or os.devnull) as file:
        result = subprocess.run(
            argv,
            cwd=directory,
            env=os.environ | environ | {"PATH": path},
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert result.returncode == status, result.stdout
    return result.stdout


def test_nbdsh_script(tmp_path: Path) -> None:
    with Live(tmp_path) as machine:
        printed = run(
            tmp_path,
            *("nbdsh", "-u", machine.uri("vda"), "-c", "-"),
            stdin=EXAMPLES / "nospace.nbdsh",
            FAULTLINE_CONTROL=machine.control,
        )
    assert printed.splitlines() == PRINTED


def test_nbdsh_recipe(tree: Path) -> None:
    """What the script says how it is run, pasted in one go."""
    assert run(tree, "bash", "-c", recipe("nospace.nbdsh", "#   ")).splitlines() == PRINTED


IN_VAIN = (
    "TimeoutError: timed out",
    "no RESET within 1 s",
    "TimeoutExpired",
    "the write has no answer",
)
"""The messages of what has waited in vain."""

WRONG_SCRIPT = {
    "error": ('"vda"', '"sda"', "x-fault-add: Cannot find device='sda' nor node-name='sda'"),
    "no-event": ('wait_event("STOP")', 'wait_event("RESET")', "TimeoutError: timed out"),
    "end": ('wait_event("STOP")', 'qmp("quit"), wait_event("STOP")', "the machine has ended"),
    "no-answer": ('qmp("cont")', "", "the write has no answer"),
}


@pytest.mark.parametrize(("right", "wrong", "message"), WRONG_SCRIPT.values(), ids=WRONG_SCRIPT)
def test_nbdsh_script_that_is_wrong(right: str, wrong: str, message: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_text(changed("nospace.nbdsh", right, wrong, message))
    with Live(tmp_path) as machine:
        printed = run(
            tmp_path,
            *("nbdsh", "-u", machine.uri("vda"), "-c", "-"),
            stdin=copy,
            status=1,
            FAULTLINE_CONTROL=machine.control,
        )
    assert message in printed


def changed(name: str, right: str, wrong: str, message: str) -> str:
    """An example with something else in a place of it, less patient where it waits in vain."""
    text = (EXAMPLES / name).read_text()
    changes = [(right, wrong)]
    if message in IN_VAIN:
        changes.append(("PATIENCE_S = 30", "PATIENCE_S = 1"))
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_pytest_file(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "test_nospace.py", tmp_path)
    printed = run(tmp_path, "pytest", "-q", "-W", "error", f"--basetemp={tmp_path}/t")
    assert printed.splitlines()[-1].startswith("1 passed")


WRONG_TEST = {
    "error": ('fault("vda"', 'fault("sda"', "Cannot find device='sda'"),
    "no-event": ('wait_event("STOP")', 'wait_event("RESET")', "no RESET within 1 s"),
    "no-such-event": ('wait_event("STOP")', 'wait_event("STOPP")', "Did you mean 'STOP'"),
    "end": (
        'machine.wait_event("STOP")',
        'machine.quit(), machine.wait_event("RESET")',
        "before RESET came",
    ),
    "no-start": ('rerror="stop"', 'rerror="nonsense"', "'nonsense' invalid read error action"),
    "hangs": ("machine.cont()", "", "TimeoutExpired"),
}


@pytest.fixture(scope="module", name="failures")
def _failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one run of all of them says of each, by its name; all have failed."""
    place = tmp_path_factory.mktemp("wrong")
    modules = {f"test_{name.replace('-', '_')}": name for name in WRONG_TEST}
    for module, name in modules.items():
        right, wrong, message = WRONG_TEST[name]
        (place / f"{module}.py").write_text(changed("test_nospace.py", right, wrong, message))
    report = place / "report.xml"
    run(place, "pytest", "-q", f"--basetemp={place}/t", f"--junit-xml={report}", status=1)
    return {
        modules[case.get("classname", "")]: "".join(case.itertext())
        for case in ElementTree.parse(report).iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    }


@pytest.mark.parametrize("name", WRONG_TEST)
def test_pytest_file_that_is_wrong(name: str, failures: dict[str, str]) -> None:
    """It ends, and says what was wrong: the error reply, or what the machine has said."""
    assert WRONG_TEST[name][2] in failures[name]


def test_asyncio(tmp_path: Path) -> None:
    printed = run(tmp_path, "python3", "-W", "error", EXAMPLES / "nospace_asyncio.py")
    assert printed.splitlines() == [
        "failed: vdb No space left on device",
        "io-status: ok nospace",
        "copies ended with 0 0",
    ]


def test_fio(tree: Path) -> None:
    """The volume is full several times, and has grown in the end; nothing is left behind."""
    before = set(os.listdir(tree))
    printed = run(tree, "bash", "-c", recipe("thin.fio", "#   "))
    heading, volume = (re.split("  +", line) for line in printed.splitlines()[-2:])
    assert dict(zip(heading, volume, strict=True)).items() >= {"WRITTEN": "64.0 MiB"}.items()
    assert int(volume[heading.index("EXTENSIONS")]) >= 7
    assert int(volume[heading.index("REFUSALS")]) > 0
    assert set(os.listdir(tree)) - before == {"log"}


@pytest.mark.skipif(shutil.which("go") is None, reason="there is no go here")
def test_go(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOCACHE", f"{tree}/go-cache")
    monkeypatch.setenv("GOTOOLCHAIN", "local")
    copy = shutil.copytree(EXAMPLES / "go", tree / "go")
    assert run(copy, "gofmt", "-l", ".") == ""
    assert run(copy, "go", "vet", ".") == ""
    printed = run(tree, "bash", "-c", recipe("go/nospace.go", "//\t"))
    assert printed.splitlines() == [
        "failed: No space left on device",
        "the program has succeeded",
    ]


@pytest.mark.parametrize("name", [path.name for path in sorted(EXAMPLES.glob("*.*"))])
def test_examples_are_short(name: str) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len([line for line in lines if "SPDX-License-Identifier" not in line]) < 80


def test_the_index_has_all_of_them() -> None:
    index = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.iterdir():
        if path.name not in ("README.md", "__pycache__"):
            assert f"]({path.name}" in index, path.name
