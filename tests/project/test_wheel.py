# SPDX-License-Identifier: MIT
"""The wheel: what is in it, and a machine served from where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from live import TIMEOUT_S
from tree import TREE

PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by somebody who may not write the tree, where that can be had."""
    top, dist = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(TREE / name, top)
    for name in ("blockcore", "client", "plugin", "scripts"):
        shutil.copytree(TREE / name, top / name, ignore=shutil.ignore_patterns("__pycache__"))
    # What an earlier build has left is not shipped.
    (top / "build" / "lib" / "blockcore").mkdir(parents=True)
    (top / "build" / "lib" / "blockcore" / "old.py").write_text("")
    before = sorted(top.rglob("*"))
    for path in (top, *before):
        path.chmod(path.stat().st_mode & ~0o222)
    build = ["wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(dist)]
    # Python keeps what it compiles beside its source, if root asks it to.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([*PIP, *build, "."], cwd=top, env=env, check=True)
    assert sorted(top.rglob("*")) == before, "the tree is left as it was"
    (built,) = dist.iterdir()
    return built


def test_contents(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        metadata_text = archive.read(metadata).decode()
        entry_points = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    modules = {str(path.relative_to(TREE)) for path in TREE.glob("blockcore/**/*.py")}
    plugin = {f"faultline_plugin/{path.name}" for path in TREE.glob("plugin/*.py")}
    client = TREE / "client"
    modules |= {str(path.relative_to(client)) for path in client.glob("**/*.py")}
    flows = {str(path.relative_to(client)) for path in client.glob("**/*.yaml")}
    assert "faultline/scenario/flows/late-extension.yaml" in flows
    typed = {f"{top}/py.typed" for top in ("blockcore", "faultline", "faultline_plugin")}
    assert {name for name in names if ".dist-info/" not in name} == modules | plugin | flows | typed
    assert any(".dist-info/" in name and name.endswith("/LICENSE") for name in names)
    assert "License: MIT" in metadata_text or "License-Expression: MIT" in metadata_text
    assert "faultline = blockcore.cli:main" in entry_points


def test_it_serves_from_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """The plugin and the core are the installed ones, and not those of this tree."""
    site = tmp_path / "site"
    install = ["install", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*PIP, *install, str(wheel)], check=True)
    # A core from elsewhere would not say this.
    with (site / "blockcore" / "process" / "server.py").open("a") as module:
        module.write('\nprint("installed", file=sys.stderr)\n')
    environ = {**os.environ, "PYTHONPATH": str(site)}
    faultline = str(site / "bin" / "faultline")
    process = subprocess.Popen(
        [faultline, "serve", "--control", "q", "drive=id=a,driver=null-co"],
        cwd=tmp_path,
        env=environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert list(json.loads(process.stdout.readline())["drives"]) == ["a"]
    plugin = f"{site}/faultline_plugin/drive.py"
    assert plugin in Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
    for command in ("query-status", "quit"):
        qmp = [faultline, "qmp", "-s", "q", command]
        subprocess.run(qmp, cwd=tmp_path, env=environ, check=True, stdout=subprocess.DEVNULL)
    _, log = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert log.startswith("installed\n")
