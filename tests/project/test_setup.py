# SPDX-License-Identifier: MIT
"""What packaging ships, and what scripts/setup does on a machine that lacks things."""

from __future__ import annotations

import os
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from tree import TREE

REQUIREMENTS = ("plugin/requirements.txt", "blockcore/cli/requirements.txt")

SHELL_TOOLS = (
    *("apt-cache", "bash", "cat", "dirname", "env", "flock", "grep", "head", "ldd", "ln", "mkdir"),
    *("mktemp", "mv", "readlink", "rm", "sed", "sha256sum", "tail"),
)


def test_every_package_is_shipped() -> None:
    config = ConfigParser()
    config.read(TREE / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    modules = [
        path.relative_to(top)
        for top, package in ((TREE, "blockcore"), (TREE / "client", "faultline"))
        for path in (top / package).rglob("*.py")
    ]
    assert listed == {".".join(path.parent.parts) for path in modules} | {"faultline_plugin"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what scripts/setup reads, and a directory `bin` with the basic tools."""
    shutil.copytree(TREE / "scripts", tmp_path / "scripts")
    for name in ("setup.cfg", "pyproject.toml", *REQUIREMENTS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TREE / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for tool in SHELL_TOOLS:
        where = shutil.which(tool)
        if where is not None:
            (tmp_path / "bin" / tool).symlink_to(where)
    return tmp_path


def run_setup(
    tree: Path, *arguments: str, system: str = "ID=debian"
) -> subprocess.CompletedProcess[str]:
    """scripts/setup with nothing but `bin` on PATH, from another directory, on some system."""
    (tree / "os-release").write_text(f"{system}\n")
    return subprocess.run(
        [tree / "scripts" / "setup", *arguments],
        cwd="/",
        # The script adds these two itself, so on a machine with nbdkit there they cannot be hidden.
        env={
            "PATH": str(tree / "bin"),
            "HOME": str(tree),
            "FAULTLINE_OS_RELEASE": str(tree / "os-release"),
        },
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


SYSTEMS = {
    "ubuntu": ("ID=ubuntu\nID_LIKE=debian", "Ubuntu", "linux-image-virtual zstd", "apt-get"),
    "mint": (
        *('ID=linuxmint\nID_LIKE="ubuntu debian"', "Ubuntu"),
        *("linux-image-virtual zstd", "apt-get"),
    ),
    "raspbian": ("ID=raspbian\nID_LIKE=debian", "Debian", "linux-image-cloud-amd64", "apt-get"),
    "fedora": ("ID=fedora\nVERSION_ID=42", "Fedora", "kernel-core", "dnf"),
    "centos": ('ID="centos"\nID_LIKE="rhel fedora"', "Fedora", "kernel-core", "dnf"),
}


@pytest.mark.parametrize(
    ("system", "family", "kernel", "installer"), SYSTEMS.values(), ids=SYSTEMS
)
def test_packages_are_the_distribution_s(
    system: str, family: str, kernel: str, installer: str, tree: Path
) -> None:
    result = run_setup(tree, "--test", system=system)
    assert result.returncode == 1
    assert result.stderr.startswith(f"scripts/setup: missing {family} packages: nbdkit nbdkit-")
    assert result.stderr.endswith(f" {kernel} (there is no {installer} here)\n")
    assert ("python3-venv" in result.stderr) == (installer == "apt-get")


def test_dnf_installs_fedora_s_packages(tree: Path) -> None:
    program(tree / "bin" / "dnf", f'echo "$*" >>{tree}/asked')
    program(tree / "bin" / "sudo", '[[ $1 == -n ]] && shift && "$@"')
    result = run_setup(tree, "--test", system="ID=fedora")
    assert result.returncode == 1
    assert result.stderr.endswith("(still not there after dnf)\n")
    install = (tree / "asked").read_text().splitlines()[0].split()
    assert install[:3] == ["install", "--assumeyes", "--setopt=install_weak_deps=False"]
    assert {"nbdkit", "nbdkit-python-plugin", "python3-libnbd", "qemu-img"} <= set(install)
    assert not {"kernel-core", "nbdkit-plugin-python", "python3-venv"} & set(install)


UBUNTU_KERNEL = {
    "apt-cache": """case $2 in
        linux-image-virtual) echo '  Depends: linux-image-6.8.0-1-generic' ;;
        linux-image-6*) echo '  Depends: linux-modules-6.8.0-1-generic' ;;
    esac""",
    "apt-get": '[[ $1 != download ]] || : >"$2"_1_amd64.deb',
    "dpkg": """mkdir -p "$3"/{boot,lib/modules/6.8.0-1-generic}
        case $2 in
            linux-image-*) : >"$3"/boot/vmlinuz-6.8.0-1-generic ;;
            linux-modules-*) mkdir "$3"/lib/modules/6.8.0-1-generic/kernel ;;
        esac""",
}
FEDORA_KERNEL = {
    "dnf": '[[ $1 != download ]] || { shift; for name; do echo "$name" >"$name.rpm"; done; }',
    "rpm2cpio": 'cat "$1"',
    "cpio": """mkdir -p lib/modules/6.15
        case $(cat) in
            kernel-core) : >lib/modules/6.15/vmlinuz ;;
            kernel-modules-core) mkdir lib/modules/6.15/kernel ;;
        esac""",
}


@pytest.mark.parametrize(
    ("system", "programs"),
    [("ID=ubuntu", UBUNTU_KERNEL), ("ID=fedora", FEDORA_KERNEL)],
    ids=["ubuntu", "fedora"],
)
def test_kernel_is_unpacked_and_not_installed(
    system: str, programs: dict[str, str], tree: Path
) -> None:
    for name, text in (programs | {"sudo": '[[ $1 == -n ]] && shift && "$@"'}).items():
        # Not through a link to the real one.
        (tree / "bin" / name).unlink(missing_ok=True)
        program(tree / "bin" / name, text)
    result = run_setup(tree, "--test", system=system)
    assert "still not there after " in result.stderr
    assert " kernel-core" not in result.stderr.splitlines()[-1]
    assert " linux-image" not in result.stderr.splitlines()[-1]
    kernel = tree / ".cache" / "kernel"
    assert (kernel / "vmlinuz").is_file() and (kernel / "modules" / "kernel").is_dir()
    assert not list(kernel.glob("unpack.*"))


def test_failing_dnf(tree: Path) -> None:
    program(tree / "bin" / "dnf", "echo dnf says: no; exit 1")
    program(tree / "bin" / "sudo", '[[ $1 == -n ]] && shift && "$@"')
    result = run_setup(tree, system="ID=fedora")
    assert result.returncode == 1
    assert "dnf says: no\n" in result.stderr
    packages = "nbdkit nbdkit-python-plugin python3 python3-libnbd"
    assert result.stderr.endswith(f"Fedora packages: {packages} (dnf install failed)\n")


@pytest.mark.parametrize("system", ["ID=arch", "", 'ID="void"\nNAME="Void Linux"'])
def test_elsewhere_it_names_what_it_looks_for(system: str, tree: Path) -> None:
    result = run_setup(tree, system=system)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "scripts/setup: missing: nbdkit, its Python plugin, the module venv, the module nbd"
        " (install them; this system's packages are not known here)\n"
    )


def test_unknown_option(tree: Path) -> None:
    result = run_setup(tree, "--bogus")
    assert (result.returncode, result.stderr) == (2, "usage: scripts/setup [--test]\n")


@pytest.mark.parametrize(
    "name",
    [".ci/run", "scripts/on-release", "scripts/run", "scripts/setup", "scripts/test"],
)
def test_scripts_parse_and_are_executable(name: str) -> None:
    subprocess.run(["bash", "-n", TREE / name], check=True)
    assert os.access(TREE / name, os.X_OK)
