# SPDX-License-Identifier: MIT
"""Times, sizes, numbers and texts of scenario files."""

from __future__ import annotations

import re

from faultline.scenario.values import Value
from faultline.sizes import in_bytes

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}
"""The units of times, in seconds."""

TEXT_MAX = 160
"""The length of a step in messages; a longer one is cut off."""


def seconds(value: Value) -> float:
    """Return a time: a number of seconds, or with a unit."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) *(ms|s|m|)", (value.text or "").strip())
    if found is None:
        value.wrong(f"'{value.text or value.plain()}' is no time, such as 200ms, 10s or 2m")
    return float(found[1]) * SECONDS[found[2] or "s"]


def size(value: Value) -> int:
    try:
        found = in_bytes(value.text or "")
    except ValueError as exc:
        value.wrong(str(exc))
    return found if found >= 0 else value.wrong("a file has no negative size")


def count(value: Value, least: int = 0) -> int:
    if not isinstance(value.data, int) or isinstance(value.data, bool) or value.data < least:
        value.wrong(f"'{value.text or value.plain()}' is no number of {least} or more")
    return value.data


def shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 3]}..."
