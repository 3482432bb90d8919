# SPDX-License-Identifier: MIT
"""Parameters of nbdkit's error filter.

A flush never fails, as with the filter.  From nbdkit's filters/error/error.c and
nbdkit-error-filter(1).
"""

from __future__ import annotations

import os.path
import re
from typing import NamedTuple

from faultline.presets.words import Rule, pairs, refuse

KINDS = {
    "pread": "read",
    "pwrite": "write",
    "zero": "write-zeroes",
    "trim": "discard",
    "extents": "block-status",
}
"""The kinds of request in nbdkit's words and in ours; the filter has `cache` besides."""

ERRORS = ("EPERM", "EIO", "ENOMEM", "EINVAL", "ENOSPC", "ESHUTDOWN")

FILTER = frozenset({"--filter=error"})


class Setting(NamedTuple):
    """How requests of one kind fail: by default never."""

    errno: str = "EIO"
    rate: float = 0.0
    file: str | None = None


def rules(text: str, directory: str) -> list[Rule]:
    """Return the rules of parameters; the file of an `error-file` may be relative to `directory`.

    Kinds of request that fail alike are in one rule.
    """
    settings = dict.fromkeys(KINDS, Setting())
    has_rate = False
    for name, value in pairs(text, FILTER):
        kinds, what = _meaning(name)
        has_rate = has_rate or what == "rate"
        for kind in kinds:
            settings[kind] = _changed(settings[kind], what, name, value, directory)
    if not has_rate:
        refuse("error-rate", "it is missing, and without a rate the filter does nothing")
    found: dict[Setting, list[str]] = {}
    for kind, setting in settings.items():
        if setting.rate > 0:
            found.setdefault(setting, []).append(KINDS[kind])
    return [_rule(setting, kinds) for setting, kinds in found.items()]


def _meaning(name: str) -> tuple[list[str], str]:
    """Return the kinds of request that a parameter is about, and what it says about them."""
    kinds = "|".join((*KINDS, "cache"))
    match = re.fullmatch(rf"error(?:-({kinds}))?(?:-(rate|file))?", name)
    if match is None:
        refuse(name, "the error filter has no such parameter")
    if match[1] == "cache":
        refuse(name, "rules do not see requests to cache")
    return [match[1]] if match[1] else list(KINDS), match[2] or "errno"


def _changed(setting: Setting, what: str, name: str, value: str, directory: str) -> Setting:
    if what == "rate":
        return setting._replace(rate=_rate(name, value))
    if what == "file":
        if not value:
            refuse(f"{name}=", "the name of the file is empty")
        return setting._replace(file=os.path.normpath(os.path.join(directory, value)))
    if value not in ERRORS:
        refuse(value, f"the errors of the filter are {', '.join(ERRORS)}")
    return setting._replace(errno=value)


def _rate(name: str, value: str) -> float:
    """Return a rate, as in 50%, 0.5 or 1:2."""
    number = r"(\d+(?:\.\d*)?|\.\d+)"
    if match := re.fullmatch(rf"{number}%", value):
        rate = float(match[1]) / 100
    elif match := re.fullmatch(rf"{number}:{number}", value):
        rate = float(match[1]) / float(match[2]) if float(match[2]) else 2.0
    elif re.fullmatch(number, value):
        rate = float(value)
    else:
        refuse(f"{name}={value}", "a rate is as in 50%, 0.5 or 1:2")
    if rate > 1:
        refuse(f"{name}={value}", "a rate is at most 100%")
    return rate


def _rule(setting: Setting, kinds: list[str]) -> Rule:
    rule: Rule = {"iotype": kinds if len(kinds) > 1 else kinds[0], "errno": setting.errno}
    if setting.rate < 1:
        rule["rate"] = setting.rate
    if setting.file is not None:
        rule["while-file"] = setting.file
    return rule
