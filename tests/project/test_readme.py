# SPDX-License-Identifier: MIT
"""What the README and docs/ say is typed, and their tables are compared with the code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
import pytest

from blockcore.cli.serve import serve
from blockcore.commands.table import table
from live import Live, make_image
from tree import TREE

README = (TREE / "README.md").read_text()
DOCUMENTS = [TREE / "README.md", *sorted((TREE / "docs").glob("*.md"))]

BLOCK = re.compile(r"^```(\w+) ?(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
"""A fenced block: its language, the terminal it belongs to, its text."""

HANG_S = 100


def first_screen() -> list[tuple[str, str, str]]:
    """The blocks between the README's first two headings of the second level."""
    blocks = BLOCK.findall(README.split("\n## ")[1])
    assert {language for language, _, _ in blocks} == {"sh", "json", "text"}
    return blocks


def comparable(line: str) -> str:
    """A line without what differs from run to run."""
    line = re.sub(r"\d+ requests? (is|are) held, (the oldest )?for [0-9:]+", "N are held", line)
    return re.sub(r'("(?:seed|seconds|microseconds)": )\d+', r"\1N", line)


class Terminal:
    """A shell in `directory` to which one can type; a line that it prints is waited for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.shell = subprocess.Popen(
            ["bash"],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            bufsize=1,
        )
        self._guard = threading.Timer(HANG_S, self.signal, [signal.SIGKILL])
        self._guard.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.cancel()
        self.signal(signal.SIGKILL)
        self.shell.communicate()

    def type(self, text: str) -> None:
        assert self.shell.stdin is not None
        self.shell.stdin.write(text)

    def lines(self) -> Iterator[str]:
        """What it prints, as the README's author would have seen it."""
        assert self.shell.stdout is not None
        for line in self.shell.stdout:
            yield comparable(line.rstrip("\n").replace(str(self.directory), "/home/me/faultline"))

    def exit(self) -> tuple[list[str], int]:
        """Leave the shell: what was still printed, and the status of the last command."""
        self.type("exit\n")
        return list(self.lines()), self.shell.wait()

    def signal(self, number: int) -> None:
        """Send it to everything that runs in the terminal, as Ctrl-C does."""
        if self.shell.poll() is None:
            os.killpg(self.shell.pid, number)


def expect(terminal: Terminal, text: str, exactly: bool) -> None:
    """Wait for the lines of `text`; with `exactly` nothing else may come between."""
    lines = terminal.lines()
    seen = []
    for wanted in map(comparable, text.splitlines()):
        for line in lines:
            seen.append(line)
            if exactly or line == wanted:
                break
        assert seen and seen[-1] == wanted, seen


def test_first_screen(tmp_path: Path) -> None:
    for name in ("scripts", ".venv"):
        (tmp_path / name).symlink_to(TREE / name)
    with ExitStack() as stack:
        terminals: dict[str, Terminal] = {}
        for language, name, text in first_screen():
            if name not in terminals:
                terminals[name] = stack.enter_context(Terminal(tmp_path))
            if language == "sh":
                terminals[name].type(text)
            else:
                # The first terminal shows the log, too.
                expect(terminals[name], text, exactly=name != "terminal-1")
        assert list(terminals) == ["terminal-1", "terminal-2", "terminal-3"]
        machine, events, client = terminals.values()
        assert client.exit() == ([], 0)
        assert (tmp_path / "big.img").read_bytes() == (tmp_path / "disk.img").read_bytes()
        machine.signal(signal.SIGINT)
        assert machine.exit()[1] == 0
        last, status = events.exit()
        assert [re.findall('"event": "([A-Z_]+)"', line) for line in last] == [
            ["RESUME"],
            ["SHUTDOWN"],
        ]
        assert status == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"scripts", ".venv", "disk.img", "big.img"}


def other_commands(document: Path) -> str:
    """What a document says is typed, but for blocks that belong to a terminal."""
    return "".join(
        text
        for language, terminal, text in BLOCK.findall(document.read_text())
        if language == "sh" and not terminal
    )


COMMANDS = {path.name: text for path in DOCUMENTS if (text := other_commands(path))}


@pytest.mark.parametrize("document", COMMANDS)
def test_other_commands_work(document: str, tmp_path: Path) -> None:
    make_image(tmp_path / "disk.img", 64 << 20)
    with Live(tmp_path, "drive=id=vda,file=disk.img,node-name=disk") as machine:
        subprocess.run(
            ["bash", "-e", "-c", COMMANDS[document]],
            env=os.environ
            | {
                "PATH": f"{TREE}/.venv/bin:{os.environ['PATH']}",
                "FAULTLINE_CONTROL": machine.control,
            },
            stdout=subprocess.DEVNULL,
            check=True,
        )


def first_column(document: str, heading: str) -> set[str]:
    """The code words in the first column of the tables below a heading."""
    text = (TREE / document).read_text().split(f"\n{heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    return {word for row in rows for word in re.findall("`([^`=]+)[^`]*`", row)}


def test_every_command_is_described() -> None:
    described = first_column("docs/qmp.md", "## Commands")
    assert described == {command.name for command in table}


def test_every_event_is_described() -> None:
    described = first_column("docs/qmp.md", "## Events")
    assert described == set(table.events)


def test_every_key_is_described() -> None:
    help_text = click.Context(serve).get_help()
    keys = set(re.findall(r"^    ([a-z-]+)=", help_text, re.MULTILINE))
    assert first_column("README.md", "## Synopsis") == keys


@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target
