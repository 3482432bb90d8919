# SPDX-License-Identifier: MIT
"""The list of QMP commands, and what each of them takes, as text."""

from __future__ import annotations

import pytest

from blockcore.cli.own_commands import help_texts, own_schema
from blockcore.cli.qmp_help import described, listed
from blockcore.cli.schema import Schema

SCHEMA = own_schema()
TEXTS = help_texts()


def test_all_commands_are_listed_with_what_they_do() -> None:
    lines = listed(SCHEMA, TEXTS).splitlines()
    assert {line.split()[0] for line in lines if not line.startswith(" ")} == set(SCHEMA.commands)
    assert any(line.startswith("cont ") and "Let the machine run" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert listed(SCHEMA, {}).splitlines()[0].strip() == "block-commit"


@pytest.mark.parametrize("command", SCHEMA.commands)
def test_each_command_is_described(command: str) -> None:
    text = described(SCHEMA, command, TEXTS)
    for name in SCHEMA.members(SCHEMA.arguments(command)):
        assert f"\n  {name}" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_description() -> None:
    text = described(SCHEMA, "block-dirty-bitmap-add", {"block-dirty-bitmap-add": "Record."})
    assert text.splitlines() == [
        "Usage: faultline qmp block-dirty-bitmap-add [KEY=VALUE]...",
        "",
        "  Record.",
        "",
        "Arguments:",
        "  node=TEXT                       required",
        "  name=TEXT                       required",
        "  granularity=NUMBER",
        "  persistent=on|off",
        "  disabled=on|off",
        "",
        "A NUMBER may have a binary suffix: k, M, G, T.",
    ]


def test_members_of_one_case() -> None:
    lines = described(SCHEMA, "blockdev-add", {}, "nbd").splitlines()
    assert "With driver=nbd:" in lines
    assert "  server.path=TEXT                required with type=unix" in lines
    assert not any("driver=qcow2:" in line for line in lines)


def test_no_arguments_deprecated() -> None:
    schema = Schema(
        [
            {
                "name": "go",
                "meta-type": "command",
                "arg-type": "0",
                "ret-type": "0",
                "features": ["deprecated"],
            },
            {"name": "0", "meta-type": "object", "members": []},
        ]
    )
    text = described(schema, "go", {})
    assert "  It is deprecated." in text.splitlines()
    assert text.endswith("It takes no arguments.")
