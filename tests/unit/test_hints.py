# SPDX-License-Identifier: MIT
"""What is said behind QEMU's words: that it knows all keys; `tests/typed` has what it says."""

from __future__ import annotations

import ast
import inspect

from blockcore.config import config
from blockcore.process.hints import MACHINE_KEYS, hint


def test_all_keys_are_known() -> None:
    tree = ast.parse(inspect.getsource(config))
    keys = {
        value.value.value
        for node in ast.walk(tree)
        if isinstance(node, ast.match_case)
        for value in ast.walk(node.pattern)
        if isinstance(value, ast.MatchValue) and isinstance(value.value, ast.Constant)
    }
    assert keys == set(MACHINE_KEYS)


def test_a_message_without_a_hint() -> None:
    assert hint("Something else") == ""
    assert hint("Something else", "drive=x", "rules, line 3") == " (rules, line 3)"
