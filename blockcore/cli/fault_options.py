# SPDX-License-Identifier: MIT
"""The options of `faultline fault add` and `modify`, and the members that they stand for."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import click

from blockcore.cli.sending import Size

F = TypeVar("F", bound=Callable[..., Any])

KINDS = {
    "read": "Reads.",
    "write": "Writes.",
    "write-zeroes": "Writes of zeroes.",
    "discard": "Discards (trims).",
    "flush": "Flushes.",
    "block-status": "Questions for the block status.",
    "connect": "Openings of connections.",
}
"""The kinds of request (FaultIOType), each of which is an option with this help."""

ACTIONS = {
    "error": "fail; errno",
    "delay": "go on later; delay-ms, jitter-ms, distribution",
    "hang": "wait for 'fault release'; hang-ms, errno",
    "drop": "are told as done, and lost",
    "torn": "are written in part; keep, sectors, errno",
    "misdirect": "go elsewhere; by",
    "duplicate": "are carried out twice",
    "corrupt": "have wrong data; how, bits, at, value, medium",
    "badblock": "fail until a block is written again; block-size",
    "disconnect": "hang up their connection",
    "readonly": "fail with EPERM",
    "set-state": "are left alone: an event changes blkdebug's state",
}
"""The actions of x-fault-add: what requests do then, and the members that only it has."""

OPTIONS = {
    "node-name": "DRIVE",
    "offset": "--from",
    "length": "--length",
    "sector": "--sector",
    "action": "--action",
    "errno": "--errno",
    "after": "--after",
    "count": "--count",
    "rate": "--rate",
    "notify": "--notify",
    "id": "--id",
}
"""The options that stand for members of x-fault-add."""

CHANGEABLE = {name: option for name, option in OPTIONS.items() if name not in ("node-name", "id")}
"""The options that stand for members of x-fault-modify."""


class Rate(click.ParamType[float]):
    """A probability: a number from 0 to 1, or a percentage."""

    name = "rate"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%?)", value.strip())
        rate = 2.0 if found is None else float(found[1]) / (100 if found[2] else 1)
        if rate > 1:
            self.fail(f"'{value}' is no probability, such as 0.01 or 1%", param, ctx)
        return rate


def rule_options(but: Collection[str] = ()) -> Callable[[F], F]:
    """Return what gives a command the options of a rule; those in `but` are refused by itself."""

    def give(command: F) -> F:
        for option in reversed(_options(but)):
            command = option(command)
        return command

    return give


def warn(reply: Mapping[str, Any]) -> None:
    """Say on stderr why a rule hits nothing as things are."""
    for text in reply.get("warnings", ()):
        click.echo(f"Warning: {text}", err=True)


def _options(but: Collection[str]) -> list[Callable[[F], F]]:
    """Return the options of a rule; those in `but` are not listed in the help."""
    return [
        *(click.option(f"--{kind}", is_flag=True, help=text) for kind, text in KINDS.items()),
        click.option(
            "--action",
            type=click.Choice(list(ACTIONS)),
            metavar="ACTION",
            help="What becomes of them.  [default: error]",
        ),
        click.option("--errno", metavar="ERRNO", help="Name or number of the error."),
        click.option(
            *("--from", "--offset", "start"),
            type=Size(),
            metavar="SIZE",
            help="Only requests from this byte on.",
        ),
        click.option("--to", type=Size(), metavar="SIZE", help="Only up to this byte."),
        click.option("--length", type=Size(), metavar="SIZE", help="Only so many bytes."),
        click.option(
            "--sector",
            type=click.IntRange(min=0),
            metavar="N",
            help="Only requests with this sector of 512 bytes.",
        ),
        click.option(
            "--after",
            type=click.IntRange(min=0),
            metavar="N",
            hidden="after" in but,
            help="Let N requests pass first.",
        ),
        click.option(
            "--count",
            type=click.IntRange(min=1),
            metavar="N",
            hidden="count" in but,
            help="Hit N requests, and no more.",
        ),
        click.option(
            "--rate",
            type=Rate(),
            metavar="RATE",
            hidden="rate" in but,
            help="Probability: 0.01, or 1%.",
        ),
        click.option(
            "--notify", is_flag=True, help="Tell each hit by the event X_FAULT_TRIGGERED."
        ),
    ]


def check_words(words: tuple[str, ...]) -> None:
    """Raise UsageError for a word that is not KEY=VALUE."""
    for word in words:
        if word in KINDS:
            raise click.UsageError(f"'{word}' is not KEY=VALUE, did you mean '--{word}'?")
        if "=" not in word.lstrip("="):
            raise click.UsageError(f"'{word}' is not KEY=VALUE")


class Rule:
    """What the options of a rule say.

    `kinds` are the kinds of request that were given; raises UsageError for options
    that exclude each other.
    """

    def __init__(
        self,
        *,
        start: int | None,
        to: int | None,
        length: int | None,
        errno: str | None,
        sector: int | None,
        after: int | None,
        count: int | None,
        rate: float | None,
        action: str | None,
        notify: bool,
        **kinds: bool,
    ) -> None:
        self.kinds = [kind for kind in KINDS if kinds[kind.replace("-", "_")]]
        self._start, self._to, self._length = start, to, length
        self._others: dict[str, object] = {
            **{"errno": errno, "sector": sector, "after": after, "count": count},
            **{"action": action, "notify": notify or None},
        }
        self._rate = rate
        if to is not None and length is not None:
            raise click.UsageError("--to and --length exclude each other")
        is_placed = any(place is not None for place in (start, to, length, sector))
        for kind, name in (("flush", "a flush"), ("connect", "a connection")):
            if is_placed and kind in self.kinds:
                text = f"{name} has no place: add its rule without --from and the like"
                raise click.UsageError(text)
        if sector is not None and any(place is not None for place in (start, to, length)):
            raise click.UsageError("--sector, and --from, --to, --length exclude each other")

    @property
    def needs_start(self) -> bool:
        """Whether --to counts from where the rule begins already."""
        return self._to is not None and self._start is None

    def members(self, begins: int = 0) -> Mapping[str, object]:
        """Return members of x-fault-add, without the kind of request.

        `begins` is where the rule begins without --from.  Raises UsageError for a
        range without a byte in it.
        """
        length = self._length
        if self._to is not None:
            start = begins if self._start is None else self._start
            length = self._to - start
            if length <= 0:
                raise click.UsageError(f"--to {self._to} is not beyond --from {start}")
        return {"offset": self._start, "length": length, "rate": self._rate, **self._others}
