# SPDX-License-Identifier: MIT
"""The releases of QEMU: data at one place, each member of which somebody asks."""

from __future__ import annotations

import ast
import dataclasses

import pytest

from blockcore.qapi.names import QmpError
from blockcore.qapi.qemu import LATEST, RELEASES, Release, release_of
from tree import TREE

BLOCKCORE = TREE / "blockcore"


def attributes() -> dict[str, set[str]]:
    """Names that are read as ``qemu.NAME``, or of a parameter that is a release, and where."""
    found: dict[str, set[str]] = {}
    for path in BLOCKCORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and _is_release(node.value):
                found.setdefault(node.attr, set()).add(path.relative_to(BLOCKCORE).as_posix())
    return found


def _is_release(value: ast.expr) -> bool:
    names = ("qemu", "release", "_qemu")
    return (isinstance(value, ast.Attribute) and value.attr in names) or (
        isinstance(value, ast.Name) and value.id in names
    )


def test_every_member_is_asked_for_and_every_question_has_an_answer() -> None:
    asked = set(attributes())
    members = {field.name for field in dataclasses.fields(Release)}
    assert asked == members


def test_nobody_compares_versions() -> None:
    assert attributes()["version"] == {"commands/version.py"}


def test_releases_differ_in_every_answer() -> None:
    old, new = RELEASES["7.2"], RELEASES["10.0"]
    for field in dataclasses.fields(Release):
        assert getattr(old, field.name) != getattr(new, field.name), field.name
    assert not old.absent & new.absent


def test_the_name_is_the_version() -> None:
    for name, release in RELEASES.items():
        assert release.name == name == "{}.{}".format(*release.version)
        assert release_of(name) is release
    assert LATEST is max(RELEASES.values(), key=lambda release: release.version)


@pytest.mark.parametrize("text", ["", "10", "10.0.13", "7.2 ", "8.2", "latest"])
def test_others_are_refused(text: str) -> None:
    with pytest.raises(QmpError) as caught:
        release_of(text)
    assert caught.value.desc == (
        f"Parameter 'qemu' does not accept value '{text}' (it may be 7.2 or 10.0)"
    )
