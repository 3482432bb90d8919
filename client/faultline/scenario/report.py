# SPDX-License-Identifier: MIT
"""What a person is told of a scenario that was played; no I/O."""

from __future__ import annotations

from collections.abc import Sequence

from faultline.events import Event
from faultline.scenario.play import Failure, Play

EVENTS_MAX = 20
"""The events that a report has, the last that came."""


def verdict(play: Play, *, began: float, took_s: float, command: str | None) -> str:
    """Return the report: one line if all is as it should be, else what is not, in several.

    `began` is when the play did, in seconds since the epoch; `command` is the command
    beside it, as text, if there is one.
    """
    name = play.scenario.name
    failure = play.failure
    if failure is None and not play.status:
        return f"{name}: passed, {_number(len(play.done), 'step')} in {took_s:.1f} s"
    if failure is None:
        return f"{name}: all steps passed, but {_command(play, command)}"
    lines = [f"{name}: failed: {failure.what}", *_place(play, failure)]
    lines += _events(failure.events, began, play.done)
    if command is not None:
        lines.append(f"  {_command(play, command)}")
    return "\n".join(lines)


def _place(play: Play, failure: Failure) -> list[str]:
    """Return where it failed, what was done before, and what was not reached."""
    file, step = play.scenario.file, failure.step
    if step is None:
        where = "at the end, after all steps" if play.at_end else "before the first step"
        lines = [f"  {file}: {where}"]
    else:
        turns = f" ({failure.turns})" if failure.turns else ""
        lines = [f"  {file}, line {step.line}, {step.field}{turns}: {step.text}"]
    if play.done:
        last = play.done[-1]
        lines.append(f"  passed before it: {_number(len(play.done), 'step')}, the last of them in"
                     f" line {last.line}: {last.text}")  # fmt: skip
    if failure.state is not None:
        lines.append(f"  the machine is {failure.state}")
    return lines


def _events(events: Sequence[Event], began: float, done: Sequence[object]) -> list[str]:
    if not events:
        return ["  no event has come since" if done else "  no event has come"]
    shown = events[-EVENTS_MAX:]
    more = f", of which the last {len(shown)}" if len(shown) < len(events) else ""
    lines = [f"  {_number(len(events), 'event')} since what was waited for last{more}:"]
    return lines + [f"  {event.time - began:9.3f} {event}" for event in shown]


def _command(play: Play, command: str | None) -> str:
    text = f"the command, {command}," if command else "the command"
    if play.status is None:
        return f"{text} still ran"
    return f"{text} had ended with status {play.status}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
