# SPDX-License-Identifier: MIT
"""`faultline completion`: what a shell needs to complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from blockcore.cli.once import Command

VARIABLE = "_FAULTLINE_COMPLETE"
"""The variable by which a shell asks for completions (click's)."""

NO_BLANK = """
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
"""
"""For bash: no blank after the = of a KEY."""


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what SHELL needs to complete faultline's words.

    It completes commands and options, QMP commands and their members, events, and the
    keys of serve; and drives, nodes, fault rules, bitmaps and jobs of the machine that
    --socket or FAULTLINE_CONTROL names.

    \b
    Examples:
      eval "$(faultline completion bash)"
      faultline completion fish >~/.config/fish/completions/faultline.fish
    """
    cls = get_completion_class(shell)
    assert cls is not None
    source = cls(ctx.find_root().command, {}, "faultline", VARIABLE).source()
    if shell == "bash":
        source = source.replace("\n    return 0\n", f"{NO_BLANK}\n    return 0\n")
    click.echo(source)
