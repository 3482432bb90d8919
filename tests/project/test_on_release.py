# SPDX-License-Identifier: MIT
"""scripts/on-release with a system of busybox instead of Debian, and what leads there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tree import TREE

NOBODY = 65534

DEBOOTSTRAP = """#!/bin/bash
# Called with --variant=minbase --force-check-gpg RELEASE TARGET.
set -e
echo made >>"${0%/*}/made"
mkdir -p "$4"/{bin,dev,etc,proc,root,sys,tmp,var/cache/apt/archives}
cp "$(command -v busybox)" "$4/bin"
for applet in cat chmod echo env find ls sh sleep touch; do ln -s busybox "$4/bin/$applet"; done
echo "$3" >"$4/etc/release"
"""


@pytest.fixture
def tree() -> Iterator[Path]:
    """A copy of the scripts that everybody can read, with a directory `bin` to be on PATH."""
    with tempfile.TemporaryDirectory(prefix="test-on-release-") as name:
        tree = Path(name).resolve()
        tree.chmod(0o755)
        for directory in ("scripts", ".ci"):
            shutil.copytree(TREE / directory, tree / directory)
        (tree / "bin").mkdir()
        yield tree


@pytest.fixture
def system(tree: Path) -> Path:
    """The tree, where debootstrap is quick and needs no network."""
    probe = ["unshare", "--mount", "--pid", "--fork", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs to be root, and allowed to make namespaces")
    program(tree / "bin" / "debootstrap", DEBOOTSTRAP)
    return tree


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def environment(tree: Path, **more: str) -> dict[str, str]:
    return {"PATH": f"{tree / 'bin'}:{os.environ['PATH']}", "HOME": str(tree), **more}


def run(
    tree: Path, command: str, *arguments: str, path: str | None = None, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    env = environment(tree)
    return subprocess.run(
        [tree / command, *arguments],
        cwd="/",
        env=env if path is None else {**env, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        user=user,
    )


def start(tree: Path, script: str) -> subprocess.Popen[str]:
    """Run the script for sh on trixie in a session of its own, and wait for its first line.

    No signal is ignored there, as SIGHUP is below nohup.
    """
    process = subprocess.Popen(
        [
            *("env", "--default-signal", str(tree / "scripts" / "on-release")),
            *("trixie", "sh", "-c", script),
        ],
        env=environment(tree),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def processes_in(tree: Path) -> list[str]:
    """Those whose root directory is below the tree."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            root = os.readlink(entry / "root")
        except OSError:
            continue
        if root.startswith(str(tree)):
            found.append(entry.name)
    return found


def copies(tree: Path) -> list[Path]:
    return list((tree / ".cache" / "systems").glob("*/run.*"))


def assert_nothing_left(tree: Path) -> None:
    assert processes_in(tree) == []
    assert copies(tree) == []
    assert str(tree) not in Path("/proc/self/mountinfo").read_text()


USAGE = "usage: scripts/on-release bookworm|trixie COMMAND [ARGUMENT]...\n"
UNKNOWN = "scripts/on-release: unknown release 'sid'; there are bookworm and trixie\n"


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("on-release", [], USAGE),
        ("on-release", ["trixie"], USAGE),
        ("on-release", ["sid", "true"], UNKNOWN),
        ("test", ["--on"], "usage: scripts/test [--on bookworm|trixie] [PYTEST-ARGUMENT]...\n"),
        ("test", ["--on", "sid"], UNKNOWN),
    ],
)
def test_usage(tree: Path, command: str, arguments: list[str], message: str) -> None:
    result = run(tree, f"scripts/{command}", *arguments)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", message)
    assert not (tree / ".cache").exists()


def test_without_debootstrap_it_names_the_package(tree: Path) -> None:
    for tool in ("bash", "dirname"):
        where = shutil.which(tool)
        assert where is not None
        (tree / "bin" / tool).symlink_to(where)
    result = run(tree, "scripts/test", "--on", "trixie", path=str(tree / "bin"))
    assert (result.returncode, result.stdout) == (69, "")
    assert result.stderr == (
        "scripts/on-release: debootstrap is not on PATH (Debian package debootstrap)\n"
    )


def test_needs_root(tree: Path) -> None:
    program(tree / "bin" / "debootstrap", DEBOOTSTRAP)
    user = None if os.geteuid() else NOBODY
    result = run(tree, "scripts/test", "--on", "bookworm", user=user)
    assert (result.returncode, result.stdout) == (69, "")
    assert result.stderr == (
        "scripts/on-release: needs root, as in: sudo scripts/test --on bookworm\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have less than that")
def test_needs_namespaces(tree: Path) -> None:
    program(tree / "bin" / "debootstrap", DEBOOTSTRAP)
    result = subprocess.run(
        [
            *("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"),
            *(tree / "scripts" / "test", "--on", "trixie"),
        ],
        env=environment(tree),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (69, "")
    assert result.stderr.startswith("scripts/on-release: needs mount and pid namespaces, which ")
    assert result.stderr.count("\n") == 1
    assert not (tree / ".cache").exists()


def test_failing_debootstrap_shows_why(system: Path) -> None:
    program(
        system / "bin" / "debootstrap",
        '#!/bin/bash\nmkdir "$4"; echo "E: not this time"; exit 1\n',
    )
    result = run(system, "scripts/on-release", "trixie", "true")
    assert (result.returncode, result.stdout) == (69, "")
    assert result.stderr.splitlines() == [
        "scripts/on-release: making the base system of trixie",
        "E: not this time",
        "scripts/on-release: debootstrap failed; does its mirror answer?",
    ]
    kept = (system / ".cache" / "systems" / "trixie").iterdir()
    assert not [path for path in kept if path.name.startswith(("base", "run."))]


@pytest.mark.parametrize("git", [True, False])
def test_what_the_command_finds(system: Path, git: bool) -> None:
    if git:
        if shutil.which("git") is None:
            pytest.skip("needs git")
        (system / ".gitignore").write_text("/.cache/\n/bin/\n")
        (system / "gone").touch()
        for words in (["init", "--quiet"], ["add", "gone", "scripts"]):
            git_words = ["git", "-C", str(system), *words]
            subprocess.run(git_words, check=True, env=environment(system))
        (system / "gone").unlink()
    else:
        (system / ".venv").mkdir()
        (system / "bin").rename(system / ".venv" / "bin")
        (system / "bin").symlink_to(".venv/bin")
    (system / "not committed\nyet").write_text("text")
    result = subprocess.run(
        [
            *(system / "scripts" / "on-release", "bookworm", "sh", "-c"),
            'cat /etc/release; cat "$1"; echo; env; find . -type f; ls /dev; exit 7',
            *("sh", "not committed\nyet"),
        ],
        cwd="/",
        env=environment(
            system,
            FAULTLINE_LOG="json",
            PIP_FIND_LINKS="/wheels",
            PIP_EXTRA_INDEX_URL="file:///index",
            PIP_INDEX_URL="https://index.invalid/simple",
            https_proxy="http://proxy.invalid",
            SECRET="yes",
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 7, result.stderr
    assert result.stderr == "scripts/on-release: making the base system of bookworm\n"
    lines = result.stdout.splitlines()
    assert lines[:2] == ["bookworm", "text"]
    assert {"HOME=/root", "LANG=C.UTF-8", "PWD=/root/faultline", "FAULTLINE_LOG=json"} < set(lines)
    assert "PIP_INDEX_URL=https://index.invalid/simple" in lines
    assert "https_proxy=http://proxy.invalid" in lines
    assert not [line for line in lines if line.startswith(("PIP_FIND", "PIP_EXTRA", "SECRET"))]
    # Of the files only what belongs to the tree is there.
    files = {line for line in lines if line.startswith("./")}
    assert {"./scripts/test", "./.ci/run", "./not committed"} < files
    assert not [file for file in files if file.startswith(("./.git/", "./.venv", "./bin", "./g"))]
    assert {"null", "ptmx", "pts", "shm", "urandom"} < set(lines)
    assert_nothing_left(system)


def test_the_base_is_made_once_and_stays_clean(system: Path) -> None:
    for _ in range(2):
        script = "ls /spoilt 2>/dev/null && exit 1; touch /spoilt here; sleep 1000 & exit 0"
        result = run(system, "scripts/on-release", "trixie", "sh", "-c", script)
        assert result.returncode == 0, result.stderr
        assert_nothing_left(system)
    assert (system / "bin" / "made").read_text() == "made\n"
    assert not (system / "here").exists()


def test_archives_are_kept(system: Path) -> None:
    archives = "/var/cache/apt/archives"
    run(system, "scripts/on-release", "trixie", "sh", "-c", f"echo 1 >{archives}/a_1_all.deb")
    result = run(system, "scripts/on-release", "trixie", "sh", "-c", f"cat {archives}/*.deb")
    assert (result.returncode, result.stdout, result.stderr) == (0, "1\n", "")


def test_beside_each_other(system: Path) -> None:
    with start(system, "touch first; echo ready; while ! ls /tmp/end; do sleep 0.1; done") as first:
        second = run(system, "scripts/on-release", "trixie", "ls")
        assert second.returncode == 0, second.stderr
        assert "first" not in second.stdout.split()
        assert first.poll() is None
        (copy,) = copies(system)
        (copy / "system" / "tmp" / "end").touch()
        assert first.wait(10) == 0
    assert_nothing_left(system)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing(system: Path, number: signal.Signals) -> None:
    with start(system, "sleep 1000 & echo ready; sleep 1000") as process:
        # Ctrl-C is for all processes of the terminal.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert (stdout, stderr) == ("", "scripts/on-release: making the base system of trixie\n")
    assert_nothing_left(system)


def test_a_signal_while_the_base_is_made(system: Path) -> None:
    program(
        system / "bin" / "debootstrap",
        '#!/bin/bash\nmkdir "$4"; touch "${0%/*}/begun"; sleep 1000 & sleep 1000\n',
    )
    with subprocess.Popen(
        [system / "scripts" / "on-release", "trixie", "true"], env=environment(system)
    ) as process:
        while not (system / "bin" / "begun").exists():
            time.sleep(0.01)
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
    assert not list((system / ".cache" / "systems" / "trixie").glob("base*"))
    assert_nothing_left(system)


def test_a_killed_run_is_removed_by_the_next(system: Path) -> None:
    with start(system, "sleep 1000 & echo ready; sleep 1000") as process:
        process.kill()
        process.wait(10)
    deadline = time.monotonic() + 10
    while processes_in(system) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes_in(system) == []
    assert len(copies(system)) == 1
    assert run(system, "scripts/on-release", "trixie", "true").returncode == 0
    assert_nothing_left(system)


@pytest.mark.parametrize("fails", [None, "here", "there"])
def test_continuous_integration(tree: Path, fails: str | None) -> None:
    program(tree / "bin" / "debootstrap", DEBOOTSTRAP)
    program(
        tree / "scripts" / "test",
        "#!/bin/bash\n"
        "[[ $1 == --on ]] && where=there || where=here\n"
        'printf "<%s>" "$@" >>asked; echo >>asked\n'
        f'echo "closing line"; [[ $where != {fails} ]]\n',
    )
    result = run(tree, ".ci/run", "-x", "a b")
    assert (result.returncode == 0) == (fails is None)
    assert result.stdout.splitlines()[-1] == "closing line"
    here, *there = (tree / "asked").read_text().splitlines()
    assert here == "<-x><a b>"
    assert there in (
        [[]]
        if fails == "here"
        else [[f"<--on><{name}><-m><not slow><-x><a b>"] for name in ("bookworm", "trixie")]
    )


@pytest.mark.parametrize(("status", "wanted"), [(69, 0), (75, 75)])
def test_continuous_integration_without_another_system(
    status: int, wanted: int, tree: Path
) -> None:
    """It says that nothing was tested there, and that is no failure; anything else is one."""
    program(tree / "bin" / "debootstrap", DEBOOTSTRAP)
    program(
        tree / "scripts" / "test", f"#!/bin/bash\n[[ $1 != --on ]] || exit {status}\n"
    )
    result = run(tree, ".ci/run")
    assert result.returncode == wanted
    assert ("nothing was tested on" in result.stdout.splitlines()[-1]) == (status == 69)
