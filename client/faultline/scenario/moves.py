# SPDX-License-Identifier: MIT
"""What a play of a scenario asks its player to do, and why it ends early."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

COMMAND = ""
"""The name, among the programs, of the command that is beside the timeline."""


@dataclass(frozen=True, slots=True)
class Execute:
    """Run a command; send its value, or the CommandError or TimedOut that was raised."""

    command: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Until:
    """Wait until `look` returns something, and send that; None after `timeout_s`."""

    look: Callable[[], Any]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Start:
    """Start a program beside the timeline: a shell command, or the `COMMAND`, which has none.

    Its end is told by `Play.ended`.
    """

    name: str
    shell: str = ""


Move = Execute | Until | Start

Moves = Generator[Move, Any, None]
"""What a step does; what is sent to it depends on the move."""


class Broken(Exception):
    """The scenario does not hold; the message says what was not as it should be."""


class Over(Exception):
    """What is waited for cannot come any more."""
