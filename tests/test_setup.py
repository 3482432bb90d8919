"""What packaging ships, and what scripts/setup does on a machine that lacks things."""

from __future__ import annotations

import os
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

REQUIREMENTS = ("plugin/requirements.txt", "blockcore/cli/requirements.txt")

SHELL_TOOLS = (
    *("apt-cache", "bash", "cat", "dirname", "env", "flock", "grep", "head", "ldd", "ln", "mkdir"),
    *("mktemp", "mv", "readlink", "rm", "sed", "sha256sum", "tail"),
)


def test_every_package_is_shipped() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    modules = (path.relative_to(ROOT) for path in (ROOT / "blockcore").rglob("*.py"))
    assert listed == {".".join(path.parent.parts) for path in modules} | {"faultline_plugin"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what scripts/setup reads, and a directory `bin` with the basic tools."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for name in ("setup.cfg", "pyproject.toml", *REQUIREMENTS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in SHELL_TOOLS:
        where = shutil.which(tool)
        if where is not None:
            (tmp_path / "bin" / tool).symlink_to(where)
    return tmp_path


def run_setup(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """scripts/setup with nothing but `bin` on PATH, from another directory."""
    return subprocess.run(
        [tree / "scripts" / "setup", *arguments],
        cwd="/",
        # The script adds these two itself, so on a machine with nbdkit there they cannot be hidden.
        env={"PATH": str(tree / "bin"), "HOME": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )


def program(path: Path, text: str) -> None:
    path.write_text(f"#!{shutil.which('bash')}\n{text}")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        pytest.param([], "", id="run"),
        pytest.param(["--test"], " libnbd-bin fio qemu-utils", id="test"),
    ],
)
def test_without_apt_it_names_what_is_missing(
    arguments: list[str], more: str, tree: Path
) -> None:
    result = run_setup(tree, *arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(
        "scripts/setup: missing Debian packages:"
        f" nbdkit nbdkit-plugin-python python3-venv python3-libnbd{more}"
    )
    assert result.stderr.endswith(" (there is no apt-get here)\n")
    assert result.stderr.count("\n") == 1
    assert not (tree / ".venv").exists()


def test_failing_apt_shows_why(tree: Path) -> None:
    program(tree / "bin" / "apt-get", 'echo "apt says: $1"; [[ $1 == update ]]')
    program(tree / "bin" / "sudo", '[[ $1 == -n ]] && shift && "$@"')
    result = run_setup(tree)
    assert result.returncode == 1
    assert "apt says: install\n" in result.stderr
    assert "apt says: update" not in result.stderr
    assert result.stderr.endswith("python3-libnbd (apt-get install failed)\n")


def test_apt_installs_only_what_is_missing(tree: Path) -> None:
    for tool in ("nbdkit",):
        where = shutil.which(tool)
        assert where is not None
        (tree / "bin" / tool).symlink_to(where)
    program(tree / "bin" / "apt-get", f'echo "$DEBIAN_FRONTEND $*" >>{tree}/asked')
    program(tree / "bin" / "sudo", '[[ $1 == -n ]] && shift && "$@"')
    result = run_setup(tree, "--test")
    assert result.returncode == 1
    assert "still not there after apt-get" in result.stderr
    update, install = (tree / "asked").read_text().splitlines()[:2]
    assert update.split() == ["update"]
    frontend, verb, *words = install.split()
    assert (frontend, verb) == ("noninteractive", "install")
    assert "--no-install-recommends" in words
    # linux-image-cloud-amd64 is fetched but never installed: it would change how the machine boots.
    assert {"libnbd-bin", "fio", "cpio"} <= set(words)
    assert not {"nbdkit", "python3-libnbd", "linux-image-cloud-amd64"} & set(words)


def test_unknown_option(tree: Path) -> None:
    result = run_setup(tree, "--bogus")
    assert (result.returncode, result.stderr) == (2, "usage: scripts/setup [--test]\n")


@pytest.mark.parametrize("name", ["scripts/run", "scripts/setup", "scripts/test", ".ci/run"])
def test_scripts_parse_and_are_executable(name: str) -> None:
    subprocess.run(["bash", "-n", ROOT / name], check=True)
    assert os.access(ROOT / name, os.X_OK)
