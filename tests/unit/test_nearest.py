# SPDX-License-Identifier: MIT
"""Suggestions: what was meant, and nothing where that is not known."""

from __future__ import annotations

import pytest

from blockcore.qapi.nearest import containing, did_you_mean, either, nearest, right_answers

OPTIONS = ("nbd", "port", "address", "socket-mode", "socket-group", "threads", "log-format")
COMMANDS = (
    *("query-status", "query-block", "block_resize", "blockdev-add", "blockdev-reopen"),
    *("x-fault-add", "x-fault-clear", "job-pause", "block-job-pause", "system_reset"),
)


@pytest.mark.parametrize(
    ("typed", "known", "meant"),
    [
        ("query-stauts", COMMANDS, "query-status"),
        ("QUERY_STATUS", COMMANDS, "query-status"),
        ("block-resize", COMMANDS, "block_resize"),
        ("fault-add", COMMANDS, "x-fault-add"),
        ("fault-ad", COMMANDS, "x-fault-add"),
        ("blockdev-create", COMMANDS, None),
        ("x-fault-hang", COMMANDS, None),
        ("query", COMMANDS, None),
        ("", COMMANDS, None),
        ("--", COMMANDS, None),
        ("threds", OPTIONS, "threads"),
        ("logformat", OPTIONS, "log-format"),
        *((typed, OPTIONS, None) for typed in ("drive", "run", "host", "fork", "report", "export")),
        *((typed, OPTIONS, None) for typed in ("read-only", "log-file", "socket", "tls", "seed")),
    ],
)
def test_nearest(typed: str, known: tuple[str, ...], meant: str | None) -> None:
    assert nearest(typed, known) == meant


def test_a_word_of_another_program() -> None:
    meanings = {"trim": ("unmap", "discard")}
    assert nearest("TRIM", ["read", "discard"], meanings) == "discard"
    assert nearest("trim", ["read"], meanings) is None


def test_names_that_contain_a_word() -> None:
    assert containing("pause", COMMANDS) == ["block-job-pause", "job-pause"]
    assert containing("job_pause", COMMANDS) == ["block-job-pause", "job-pause"]
    assert containing("block", COMMANDS, most=1) == []
    assert containing("pau", COMMANDS) == []


def test_clauses() -> None:
    assert did_you_mean("a-c", ["a-c", "b"]) == ", did you mean 'a-c'?"
    assert did_you_mean("q", ["a", "b"]) == ""
    assert either(["a"]) == "a"
    assert either(["a", "b", "c"]) == "a, b or c"
    assert right_answers("q", ["a", "b"]) == ": it is a or b"
    assert right_answers("A", ["a", "b"]) == ", did you mean 'a'? It is a or b"
    assert right_answers("q", [str(number) for number in range(20)]) == ""
