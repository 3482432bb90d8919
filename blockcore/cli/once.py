# SPDX-License-Identifier: MIT
"""Commands whose options may be given once only; click would take the last value."""

from __future__ import annotations

import click


class Command(click.Command):
    """A command that raises UsageError if an option with a value is given twice."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        seen = set()
        for param in given:
            if isinstance(param, click.Option) and not param.is_flag:
                if param in seen:
                    name = next(name for name in param.opts if name.startswith("--"))
                    raise click.UsageError(f"{name} is given twice", ctx)
                seen.add(param)
        return super().parse_args(ctx, args)


class Group(click.Group):
    """A group of commands whose options may be given once only."""

    command_class = Command
