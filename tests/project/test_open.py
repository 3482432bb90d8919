# SPDX-License-Identifier: MIT
"""What an open project has: a licence in every source, a changelog, links that lead on."""

from __future__ import annotations

import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from tree import TREE

SOURCES = [
    *(
        path
        for top in ("blockcore", "client", "plugin", "tests")
        for path in (TREE / top).glob("**/*.py")
    ),
    *(path for path in (TREE / "scripts").glob("**/*") if path.is_file()),
    TREE / ".ci/run",
]

DOCUMENTS = [*TREE.glob("*.md"), *TREE.glob("docs/*.md"), *TREE.glob("tests/**/*.md")]


def test_every_source_says_its_licence() -> None:
    named = [path for path in SOURCES if path.suffix in (".py", ".nbdsh", "") and is_source(path)]
    assert len(named) > 300
    line = "# SPDX-License-Identifier: MIT\n"
    without = [path for path in named if line not in path.read_text()[:200]]
    assert without == []


def is_source(path: Path) -> bool:
    return path.suffix == ".py" or path.read_bytes().startswith(b"#!")


def test_changelog_has_this_version() -> None:
    config = ConfigParser()
    config.read(TREE / "setup.cfg")
    headings = re.findall(r"^## (.*)$", (TREE / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert config["metadata"]["version"] == headings[1]


def test_the_version_is_written_down_once() -> None:
    config = ConfigParser()
    config.read(TREE / "setup.cfg")
    version = config["metadata"]["version"]
    shipped = [path for path in SOURCES if TREE / "tests" not in path.parents]
    holders = [path for path in shipped if f'"{version}"' in path.read_text(errors="replace")]
    assert holders == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TREE)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text):
        if not re.match(r"[a-z]+:", target):
            found = document.parent / target if target else document
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), anchor


def anchors(document: Path) -> set[str]:
    """Return what a renderer calls the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def test_pre_commit_names_tools_that_are_set_up() -> None:
    hooks = (TREE / ".pre-commit-config.yaml").read_text()
    modules = (TREE / "scripts/setup").read_text()
    for tool in ("ruff", "mypy", "pytest"):
        assert tool in hooks and re.search(rf"modules\+=\(.*\b{tool}\b", modules)


@pytest.mark.parametrize("script", ["scripts/rooms"])
def test_rooms_are_printed(script: str) -> None:
    ran = subprocess.run([TREE / script], capture_output=True, text=True, check=True)
    assert re.match(r"at the top: \d+ rooms, \d+ arrows, \d+ floors\n", ran.stdout)
    assert "flowchart TD" in ran.stdout
