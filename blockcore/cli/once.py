# SPDX-License-Identifier: MIT
"""Commands and groups that say more about a wrong command line than click does.

An option may be given once only; click would take the last value.  For an option,
command or number that is wrong, the message says what may have been meant
(`wrong_words`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

WHICH = {
    "DRIVE": "which drive? 'faultline status' lists them",
    "EVENT": "which event? 'faultline wait --help' has examples",
    "FAULT": "which rule? 'faultline fault list' lists them",
    "ID": "which job? 'faultline jobs' lists them",
    "NAME": "which bitmap? 'faultline bitmap list' lists them",
    "SHELL": "which shell? It is bash, zsh or fish",
    "SOURCE": "which bitmaps? 'faultline bitmap list' lists them",
    "SPEED": "which speed? It is in bytes per second, such as 10M",
    "TARGET": "which bitmap? 'faultline bitmap list' lists them",
}
"""What is said where an argument is missing."""


class Command(click.Command):
    """A command that raises UsageError if an option with a value is given twice."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        with _explained(ctx, words):
            refuse_single_dash(self, ctx, words)
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
            seen = set()
            for param in given:
                if isinstance(param, click.Option) and not (param.is_flag or param.multiple):
                    if param in seen:
                        name = next(name for name in param.opts if name.startswith("--"))
                        raise click.UsageError(f"{name} is given twice", ctx)
                    seen.add(param)
            return super().parse_args(ctx, args)


BEHIND = "blockcore.behind"
"""Where a context's `meta` has the words behind ``--``, for a `CommandWithRest`."""


class CommandWithRest(Command):
    """A command with something behind ``--`` that is for another program: `rest`."""

    rest = "NBDKIT-OPTIONS"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[BEHIND] = args[end + 1 :]
        return super().parse_args(ctx, args[:end])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), f"[-- {self.rest}]"]


class Group(click.Group):
    """A group of commands whose options may be given once only."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _explained(ctx, list(args)):
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            raise click.UsageError(_wrong_words().command(ctx, args[0], known), ctx)
        return super().resolve_command(ctx, args)


def refuse_single_dash(command: click.Command, ctx: click.Context, args: list[str]) -> None:
    """Raise UsageError for ``-socket``, which click would read as ``-s ocket``."""
    long = {name for param in command.get_params(ctx) for name in param.opts}
    for arg in args:
        if arg == "--":
            return
        if re.fullmatch("-[a-z][a-z-]+", arg) and f"-{arg}" in long:
            raise click.UsageError(f"No such option '{arg}', did you mean '-{arg}'?", ctx)


@contextmanager
def _explained(ctx: click.Context, args: list[str]) -> Iterator[None]:
    """Give click's errors of the body their context, and say what may have been meant."""
    try:
        yield
    except click.NoSuchOption as exc:
        message = _wrong_words().option(ctx, exc.option_name, args)
        raise click.UsageError(message, ctx) from exc
    except click.MissingParameter as exc:
        name = "" if exc.param is None else exc.param.human_readable_name.removesuffix("...")
        if name not in WHICH:
            raise
        raise click.UsageError(WHICH[name], ctx) from exc
    except click.BadParameter as exc:
        kind = exc.param.type if exc.param is not None else None
        if isinstance(kind, click.IntRange | click.FloatRange):
            message = _wrong_words().number(exc.message, kind.min, kind.max)
            raise click.BadParameter(message, exc.ctx, exc.param) from exc
        raise
    except click.BadOptionUsage as exc:
        given = [param for param in ctx.command.params if exc.option_name in param.opts]
        message = exc.message
        if given and "requires an argument" in message:
            message = _wrong_words().choice(message, given[0].type)
        raise click.UsageError(message, ctx) from exc
    except click.UsageError as exc:
        exc.ctx = exc.ctx or ctx
        raise


def _wrong_words() -> Any:
    """Return the module of that name, imported when it is needed: `serve` is to start fast."""
    return import_module("blockcore.cli.wrong_words")
