# SPDX-License-Identifier: MIT
"""Commands of `faultline` in children of a process that has imported all of them.

A command of its own takes some 0.3 s until it begins, a child of this one almost none of that.
What is not shown is how the interpreter starts: tests of that start a command of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

Redirections = Mapping[int, str | None]
"""By the number of a standard stream the file that it is, or None: it is closed."""


class Forks:
    """The process whose children run commands, one at a time; ends with the block."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _where: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def run(
        self, words: Sequence[str], streams: Redirections, cwd: Path
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its other streams are files, whose text is in the answer."""
        texts = {1: cwd / "stdout", 2: cwd / "stderr"}
        files = {0: os.devnull, 1: str(texts[1]), 2: str(texts[2]), **streams}
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([words, list(files.items()), str(cwd)]) + "\n")
        process.stdin.flush()
        status = int(process.stdout.readline())
        out, err = (path.read_text() if path.exists() else "" for path in texts.values())
        return subprocess.CompletedProcess([*words], status, out, err)


def _serve() -> int:
    """Fork for each line of stdin; the child leaves the loop to run its command."""
    from importlib import import_module

    from blockcore.cli import main
    from blockcore.cli.command import MODULES

    for module in set(MODULES.values()):
        import_module(f"blockcore.cli.{module}")
    requests, answers = os.fdopen(os.dup(0)), os.dup(1)
    for line in requests:
        words, files, cwd = json.loads(line)
        child = os.fork()
        if not child:
            requests.close()
            os.close(answers)
            os.chdir(cwd)
            for number, name in files:
                _redirect(number, name)
            return main(words)
        _, status = os.waitpid(child, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))
    return 0


def _redirect(number: int, name: str | None) -> None:
    """Do what a shell does, and what the interpreter then makes of a stream that is closed."""
    os.close(number)
    if name is None:
        stream = ("stdin", "stdout", "stderr")[number]
        setattr(sys, stream, None)
        setattr(sys, f"__{stream}__", None)
        return
    # The lowest free number, which is `number`, unless one below it is closed.
    flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    opened = os.open(name, flags, 0o600)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    os.set_inheritable(number, True)


if __name__ == "__main__":
    raise SystemExit(_serve())
