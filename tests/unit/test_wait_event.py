# SPDX-License-Identifier: MIT
"""Which events `faultline wait` takes for those that are wanted."""

from __future__ import annotations

from typing import Any

import click
import pytest

from blockcore.cli.wait_event import Waiting, fits, parsed
from faultline.events import Event


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        *(("vda", "vda", True), ("vda", "vdb", False), ("1", "1", True), ("on", "true", False)),
        *((True, "on", True), (True, "true", True), (True, "off", False), (False, "no", True)),
        *((True, "1", False), (1, "1", True), (1, "on", False), (1048576, "1M", True)),
        *((-1, "-1", True), (0, "", False), (0.5, "0.5", True), (None, "null", True)),
        *(({"a": 1}, '{"a": 1}', True), ({"a": 1}, "{", False), ([1], "[2]", False)),
    ],
)
def test_a_value_that_fits(value: Any, text: str, expected: bool) -> None:
    assert fits(value, text) is expected


def test_words() -> None:
    assert parsed(["device=vda", "node_name=a=b", "x="]) == {
        **{"device": "vda", "node-name": "a=b", "x": ""}
    }
    for word in ("device", "=vda"):
        with pytest.raises(click.UsageError, match="is not MEMBER=VALUE"):
            parsed([word])


def test_all_members_have_to_fit() -> None:
    waiting = Waiting("BLOCK_IO_ERROR", {"device": "vda", "action": "stop"}, ())
    for data, expected in (
        ({"device": "vda", "action": "stop", "nospace": True}, True),
        ({"device": "vdb", "action": "stop"}, False),
        ({"device": "vda", "action": "report"}, False),
        ({"device": "vda"}, False),
    ):
        assert waiting.accepts(Event("BLOCK_IO_ERROR", data)) is expected
        assert not waiting.accepts(Event("STOP", data))
