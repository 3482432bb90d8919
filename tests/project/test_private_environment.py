# SPDX-License-Identifier: MIT
"""nbdkit with another Python than `faultline`'s: what is found, what is made for it, refusals.

A shell script stands for that Python and its pip, another one for an nbdkit
that embeds it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from blockcore.cli import private_environment
from blockcore.cli.embedding import Nbdkit, embedded_environment, find_nbdkit
from blockcore.cli.known_nbdkit import known_python, remember_python
from blockcore.cli.package_metadata import installed_packages, plugin_requirements
from blockcore.cli.plugin_packages import PACKAGES, plugin_packages
from blockcore.cli.private_environment import PrivateEnvironment
from live import FAULTLINE, TIMEOUT_S
from tree import TREE

OTHER = Nbdkit(Path("/usr/bin/nbdkit"), (3, 97))
REQUIREMENTS = ("bitarray>=3.0", "structlog>=23.1")

PIP = """
[[ $2 == -c ]] && exit 0
echo "$*" >>{log}
while [[ $1 != --target ]]; do shift; done
mkdir "$2"
{more}
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{text}")
    path.chmod(0o755)
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """With a cache of its own, and `bin` first on PATH."""
    return {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
    }


def nbdkit_of(tmp_path: Path, version: str) -> Path:
    """An nbdkit that says it embeds that Python; otherwise it is the real one."""
    real = shutil.which("nbdkit")
    dump = f'[[ $* == *--dump-plugin* ]] && exec echo "python_version={version}"\n'
    return program(tmp_path / "bin" / "nbdkit", f'{dump}exec {real} "$@"')


def environment(environ: dict[str, str]) -> PrivateEnvironment:
    return PrivateEnvironment.of(OTHER, "0.1.0", REQUIREMENTS, environ)


def test_nbdkit_is_the_first_on_path(tmp_path: Path, environ: dict[str, str]) -> None:
    program = nbdkit_of(tmp_path, "3.97.1")
    found = find_nbdkit(environ)
    assert found == Nbdkit(program, (3, 97))
    assert found.python_name == "python3.97"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("exit 1", "nbdkit has no Python plugin (packages: ", id="no-plugin"),
        pytest.param("echo name=python", "nbdkit has no Python plugin (packages: ", id="odd"),
        pytest.param(
            "echo python_version=3.9.2",
            "nbdkit embeds Python 3.9, the plugin needs 3.11 or newer",
            id="old",
        ),
    ],
)
def test_an_nbdkit_that_will_not_do(
    text: str, message: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    program(tmp_path / "bin" / "nbdkit", text)
    with pytest.raises(click.ClickException) as caught:
        find_nbdkit(environ)
    assert f"{tmp_path}/bin/{message}" in caught.value.message


def test_no_nbdkit(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="there is no nbdkit on PATH"):
        find_nbdkit({"PATH": str(tmp_path)})


@pytest.mark.parametrize("beside", ["/usr", "/usr/local"])
def test_the_embedded_python_finds_its_own_library_first(beside: str) -> None:
    """Before a user's environment, which may be of another build or hide the system's packages."""
    env = embedded_environment(
        Path(beside, "sbin", "nbdkit"),
        [Path("/a"), Path("/b")],
        {"PATH": "/venv/bin:/usr/bin", "PYTHONHOME": "/x", "LANG": "C"},
    )
    first = dict.fromkeys([f"{beside}/bin", "/usr/bin"])
    assert env["PATH"] == ":".join([*first, "/venv/bin:/usr/bin"])
    assert env["PYTHONPATH"] == "/a:/b"
    assert set(env) == {"PATH", "PYTHONPATH", "LANG", "LC_ALL"}


@pytest.mark.parametrize(
    "listed",
    [
        ["bitarray >= 3", "rich", 'bitarray>=3; extra == "plugin"', 'mypy; extra == "test"'],
        ["bitarray (>=3)", "bitarray (>=3) ; extra == 'plugin'", "mypy ; extra == 'test'"],
    ],
    ids=["new", "old"],
)
def test_requirements_are_those_of_the_extra(listed: list[str]) -> None:
    assert plugin_requirements(listed) == ("bitarray>=3",)


def test_the_same_python_has_its_own_packages(environ: dict[str, str]) -> None:
    version = (sys.version_info.major, sys.version_info.minor)
    places = plugin_packages(Nbdkit(Path("/usr/bin/nbdkit"), version), environ)
    for name in ("bitarray", "structlog"):
        assert any((place / name).is_dir() for place in places)
    assert not Path(environ["XDG_CACHE_HOME"]).exists()


def test_another_build_of_the_version_is_another_python(monkeypatch: pytest.MonkeyPatch) -> None:
    same = Nbdkit(Path("/usr/bin/nbdkit"), (sys.version_info.major, sys.version_info.minor))
    assert same.is_this_python() and not OTHER.is_this_python()
    monkeypatch.setattr(sys, "abiflags", "t")
    assert not same.is_this_python()


def test_a_missing_package_is_named() -> None:
    with pytest.raises(click.ClickException) as caught:
        installed_packages(["no-such-thing>=3.0"])
    command = f"{sys.executable} -m pip install 'no-such-thing>=3.0'"
    assert caught.value.message == f"the package no-such-thing is missing: {command}"


def test_the_directory_says_what_it_is_for(tmp_path: Path, environ: dict[str, str]) -> None:
    directory = environment(environ).directory
    assert directory.parent == tmp_path / "cache" / "faultline"
    assert directory.name.startswith("python3.97-0.1.0-")
    fewer = PrivateEnvironment.of(OTHER, "0.1.0", REQUIREMENTS[:1], environ)
    assert fewer.directory != directory
    assert not (tmp_path / "cache").exists()


def test_pip_of_this_python_does_for_the_other(environ: dict[str, str]) -> None:
    command = environment(environ).command(environ)
    assert command is not None
    assert command[:5] == [sys.executable, "-P", "-m", "pip", "install"]
    assert {"--only-binary=:all:", "--python-version=3.97", "--abi=cp397"} < set(command)
    assert command[-1] == "--target"


def test_uv_does_without_pip(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_environment, "find_spec", lambda _: None)
    environ["PATH"] = f"{tmp_path}/bin"
    assert environment(environ).command(environ) is None
    uv = program(tmp_path / "bin" / "uv", "")
    command = environment(environ).command(environ)
    assert command is not None
    assert command[:3] == [str(uv), "pip", "install"]
    assert {"--only-binary=:all:", "--python-version=3.97"} < set(command)


def test_without_any_pip_it_says_what_to_do(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_environment, "find_spec", lambda _: None)
    environ["PATH"] = f"{tmp_path}/bin"
    with pytest.raises(click.ClickException) as caught:
        environment(environ).make(environ)
    assert caught.value.message.startswith("nbdkit embeds python3.97, faultline is installed for ")
    assert caught.value.message.endswith(
        "there is no pip to get bitarray>=3.0 and structlog>=23.1; "
        f"install faultline with python3.97, or run {sys.executable} -m ensurepip"
    )


def test_starts_that_come_together_make_it_once(
    tmp_path: Path, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    own = program(tmp_path / "bin" / "python3.97", PIP.format(log=log, more="sleep 0.1"))
    made = environment(environ)
    # What an interrupted start has left is no obstacle.
    Path(f"{made.directory}.new", "half").mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(made.make, environ) for _ in range(4)]:
            done.result()
    assert list(made.directory.iterdir()) == []
    (line,) = log.read_text().splitlines()
    assert line.startswith("-I -m pip install ")
    assert line.endswith(f"--target {made.directory}.new {' '.join(REQUIREMENTS)}")
    assert made.command(environ) == [str(own), *line.split()[: -len(REQUIREMENTS) - 1]]
    said = capsys.readouterr().err
    wanted = "bitarray>=3.0 and structlog>=23.1"
    where = f"nbdkit's python3.97 in {made.directory}"
    assert said == f"faultline: installing {wanted} for {where}\n"


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        pytest.param("echo 'ERROR: none for bitarray' >&2", "none for bitarray", id="pip"),
        pytest.param(
            "echo 'WARNING: Retrying after connection broken by X' >&2; echo ERROR: none >&2",
            "the package index cannot be reached",
            id="network",
        ),
        pytest.param("", "pip failed", id="silent"),
    ],
)
def test_a_failure_is_one_line_with_a_remedy(
    says: str, reason: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    text = PIP.format(log=tmp_path / "log", more=f"{says}\nexit 1")
    own = program(tmp_path / "bin" / "python3.97", text)
    made = environment(environ)
    with pytest.raises(click.ClickException) as caught:
        made.make(environ)
    message = caught.value.message
    assert "\n" not in message
    assert f"packages for python3.97 cannot be had: {reason}; install faultline with " in message
    assert f"or get them by hand: {own} -I -m pip install " in message
    assert message.endswith(f" --target {made.directory} 'bitarray>=3.0' 'structlog>=23.1'")
    assert [path.suffix for path in made.directory.parent.iterdir()] == [".lock"]


def test_no_place_for_it(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(click.ClickException, match="Not a directory.*or set XDG_CACHE_HOME"):
        environment(environ).make(environ)


def test_serve_with_another_python(tmp_path: Path, environ: dict[str, str]) -> None:
    """The packages that nbdkit's Python gets are those of the private environment."""
    links = "\n".join(
        f"ln -s {Path(spec.origin).parent} $2"
        for spec in map(find_spec, ("bitarray", "structlog"))
        if spec is not None and spec.origin is not None
    )
    program(tmp_path / "bin" / "python3.97", PIP.format(log=tmp_path / "log", more=links))
    nbdkit_of(tmp_path, "3.97.0")
    serve = [*FAULTLINE, "serve", "--nbd", "n.sock", "--control", "q"]
    for _ in range(2):
        process = subprocess.Popen(
            [*serve, "drive=id=a,driver=null-co"],
            cwd=tmp_path,
            env={**environ, "PYTHONPATH": str(TREE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert list(json.loads(process.stdout.readline())["drives"]) == ["a"]
        environment_of_it = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        (path,) = (text for text in environment_of_it if text.startswith("PYTHONPATH="))
        assert path.startswith(f"PYTHONPATH={tmp_path}/cache/faultline/python3.97-")
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_the_python_of_an_nbdkit_is_remembered(tmp_path: Path, environ: dict[str, str]) -> None:
    """Until its program or its plugin is another one."""
    kit, plugin = tmp_path / "nbdkit", tmp_path / "plugin.so"
    shutil.copy(sys.executable, kit)
    plugin.write_bytes(b"1")
    words = str(kit), str(plugin)
    assert known_python(str(kit), environ) is None
    remember_python(*words, (3, 97), environ)
    assert known_python(str(kit), environ) == (3, 97)
    assert known_python(str(plugin), environ) is None
    for changed in (kit, plugin):
        remember_python(*words, (3, 97), environ)
        with changed.open("ab") as file:
            file.write(b"2")
        assert known_python(str(kit), environ) is None
    remember_python(*words, (3, 97), environ)
    plugin.unlink()
    assert known_python(str(kit), environ) is None


def test_a_script_is_not_remembered(tmp_path: Path, environ: dict[str, str]) -> None:
    """It may run another nbdkit the next time."""
    find_nbdkit({**environ, "PATH": f"{nbdkit_of(tmp_path, '3.97.1').parent}:/usr/bin"})
    assert not Path(environ["XDG_CACHE_HOME"]).exists()


@pytest.mark.parametrize("content", [b"", b"a\nb\n", b"\xff\n" * 5, b"{}\n{}\n{}\n{}\nx\n"])
def test_a_cache_with_something_else_in_it(
    content: bytes, tmp_path: Path, environ: dict[str, str]
) -> None:
    kit = tmp_path / "nbdkit"
    shutil.copy(sys.executable, kit)
    remember_python(str(kit), str(kit), (3, 97), environ)
    (Path(environ["XDG_CACHE_HOME"]) / "faultline" / "nbdkit").write_bytes(content)
    assert known_python(str(kit), environ) is None


def test_no_cache(tmp_path: Path, environ: dict[str, str]) -> None:
    """nbdkit is asked each time."""
    (tmp_path / "cache").write_text("")
    remember_python(sys.executable, sys.executable, (3, 97), environ)
    assert known_python(sys.executable, environ) is None
    real = {**environ, "PATH": os.environ["PATH"]}
    assert find_nbdkit(real).python == find_nbdkit(dict(os.environ)).python


def test_packages_are_those_that_are_required() -> None:
    lines = (TREE / "plugin" / "requirements.txt").read_text().splitlines()
    assert tuple(line.split()[0] for line in lines if not line.startswith("#")) == PACKAGES
