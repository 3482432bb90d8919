# SPDX-License-Identifier: MIT
"""A short run of nbdkit with the user's options for it and without a machine.

The machine's nbdkit logs nothing by itself, so that each error is told once, and in
the machine's words.  What nbdkit has against its own options is found here.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

TLS_IS_OFF = "TLS will be disabled"
"""nbdkit's warning that there are no certificates; it serves without TLS then."""

PREFIX = re.compile(r"(\S*nbdkit: )*((error|warning): )?")
"""What a message begins with; getopt_long's have the program's path besides."""


def rehearse(
    program: Path, options: Sequence[str], parameters: Sequence[str], environ: Mapping[str, str]
) -> None:
    """Run nbdkit's null plugin with filters and TLS as given, for no time.

    Raises ClickException, in nbdkit's words, if it cannot run.
    """
    argv = [str(program), *options, "-U", "-", "--log=stderr", "--run", ":", "null", "size=1M"]
    try:
        done = subprocess.run(
            [*argv, *parameters],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as exc:
        raise click.ClickException(f"{program}: {exc.strerror}") from exc
    if done.returncode != 0 or TLS_IS_OFF in done.stderr:
        raise click.ClickException(f"nbdkit: {reason(done.stderr)}")


def reason(text: str) -> str:
    """Return the first line that is no debugging message, without what it begins with."""
    lines = [line for line in text.splitlines() if line and not line.startswith("nbdkit: debug:")]
    if not lines:
        return "it fails with these options, and does not say why"
    return PREFIX.sub("", lines[0])
