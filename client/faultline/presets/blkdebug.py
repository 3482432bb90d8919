# SPDX-License-Identifier: MIT
"""Files of QEMU's blkdebug: groups [inject-error] and [set-state] of lines KEY = "VALUE".

As in QEMU all rules of errors come before the changes of state.  From QEMU's
block/blkdebug.c and util/qemu-config.c.
"""

from __future__ import annotations

import re

from faultline.presets.words import Rule, line, refuse

KEYS = {
    "inject-error": ("event", "state", "iotype", "errno", "sector", "once", "immediately"),
    "set-state": ("event", "state", "new_state"),
}
"""The keys of each group."""

NUMBERS = frozenset({"state", "new_state", "sector"})

SWITCHES = {"on": True, "off": False}


def rules(text: str, directory: str) -> list[Rule]:
    """Return the rules of a file; `directory` is of no use."""
    found: dict[str, list[tuple[int, Rule]]] = {name: [] for name in KEYS}
    current: tuple[str, Rule] | None = None
    for number, content in enumerate(text.split("\n"), 1):
        content = content.rstrip()
        if not content or content.startswith("#"):
            continue
        with line(number):
            if content.startswith("["):
                current = _group(content), {}
                found[current[0]].append((number, current[1]))
            elif current is None:
                refuse(content, "it is in no group, [inject-error] or [set-state]")
            else:
                _option(*current, content)
    made = []
    for name, groups in found.items():
        for number, options in groups:
            with line(number):
                made.append(_rule(name, options))
    return made


def _group(content: str) -> str:
    match = re.match(r'\[\s*([^\]\s"]+)\s*(?:"[^"]+"\s*)?\]', content)
    if match is None or match[1] not in KEYS:
        refuse(content, "a group is [inject-error] or [set-state]")
    return match[1]


def _option(group: str, options: Rule, content: str) -> None:
    match = re.match(r'\s*(\S+)\s+=\s*"([^"]*)"', content)
    if match is None:
        refuse(content, 'a line is KEY = "VALUE"')
    key, value = match[1], match[2]
    if key not in KEYS[group]:
        refuse(key, f"the keys of [{group}] are {', '.join(KEYS[group])}")
    if key in ("once", "immediately"):
        if value not in SWITCHES:
            refuse(value, f"{key} is on or off")
        options[key] = SWITCHES[value]
    elif key in NUMBERS or (key == "errno" and not value.isalnum()):
        if not re.fullmatch(r"\d+", value):
            refuse(value, f"{key} is a number")
        options[key] = int(value)
    else:
        options[key] = int(value) if key == "errno" and value.isdigit() else value


def _rule(group: str, options: Rule) -> Rule:
    if "event" not in options:
        refuse(f"[{group}]", "its event is missing")
    if group == "set-state":
        rule = {"action": "set-state", "event": options["event"]}
        if options.get("state"):
            rule["state"] = options["state"]
        return {**rule, "new-state": options.get("new_state", 0)}
    return options
