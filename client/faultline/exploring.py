# SPDX-License-Identifier: MIT
"""What is checked of the states that a crash might leave, and what has come of it.

Workers of any kind of executor, in other processes or on other hosts, import this
module only: what goes to them is a checker and a `CrashState`, what comes back is a
`CrashResult`, and all of these can be pickled.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

CHECK_S = 300.0
"""The deadline of a command that checks a state, in seconds."""

REPR_CHARS = 180
"""What the repr of a report has: pytest cuts the middle out of a longer one than 240."""

REPR_FIRST = 120
"""What it has of the first result that is wrong."""

REPR_OTHER = 60
"""What it has of each other one."""

LINES = 20
"""The lines of a command's output that a result has, the last ones."""


@dataclass(frozen=True, slots=True)
class CrashState:
    """A state that a crash might leave, at a moment of a workload, and the export that has it.

    `moment` counts from 1: the first flush, the second... and the end of the workload.
    `state` is the name that x-crash-enumerate gives to it.  `name` is both, as
    ``MOMENT/STATE``: so a state is asked for alone.

    >>> CrashState(2, "1-4:1-2", "nbd://host/crash0").name
    '2/1-4:1-2'
    """

    moment: int
    state: str
    uri: str

    @property
    def name(self) -> str:
        """The text by which `explore` finds the state again."""
        return f"{self.moment}/{self.state}"


Checker = Callable[[CrashState], object]
"""Looks at one state.  It finds something wrong by raising, or by returning a text."""


@dataclass(frozen=True, slots=True)
class CrashResult:
    """What has come of checking one state: `wrong` is what the checker says, None if all is well.

    >>> CrashResult("1/1-2:none", None).ok, CrashResult("1/1-2:all", "no journal").ok
    (True, False)
    """

    name: str
    wrong: str | None

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return self.wrong is None

    def __str__(self) -> str:
        return f"{self.name}: {'ok' if self.wrong is None else self.wrong}"


@dataclass(frozen=True, repr=False)
class CrashReport:
    """What has come of all states, in the order in which they were found.

    `moments` has how often the workload was stopped to look at it.  `sampled` are
    the moments of which not all states were looked at, because they were more than
    the limit.

    >>> report = CrashReport([CrashResult("1/1-2:none", None), CrashResult("1/1-2:2", "lost")], 1)
    >>> print(report)
    2 states of 1 moment, 1 of them wrong:
      1/1-2:2: lost
    >>> report.ok, [result.name for result in report.failures]
    (False, ['1/1-2:2'])
    """

    results: Sequence[CrashResult]
    moments: int
    sampled: Sequence[int] = ()

    @property
    def failures(self) -> list[CrashResult]:
        """The results in which something was wrong."""
        return [result for result in self.results if not result.ok]

    @property
    def ok(self) -> bool:
        """Whether states were looked at, and nothing was wrong in any of them."""
        return bool(self.results) and not self.failures

    def __repr__(self) -> str:
        """Return what is wrong, in so few characters that pytest shows all of them.

        >>> CrashReport([CrashResult("1/1-2:2", "lost")], 1)
        <CrashReport 1 of 1 state wrong: 1/1-2:2: lost>
        """
        failures = self.failures
        if not failures:
            return f"<CrashReport {self}>"
        total = _many(len(self.results), "state")
        text = f"{len(failures)} of {total} wrong: {_short(failures[0], REPR_FIRST)}"
        for at, failure in enumerate(failures[1:], 1):
            more = f"; {_short(failure, REPR_OTHER)}"
            if len(text) + len(more) > REPR_CHARS:
                text += f"; and {len(failures) - at} more"
                break
            text += more
        return f"<CrashReport {text}>"

    def __str__(self) -> str:
        if not self.results:
            return f"no state was looked at in {_many(self.moments, 'moment')}"
        head = f"{_many(len(self.results), 'state')} of {_many(self.moments, 'moment')}"
        if self.sampled:
            head += f" (a sample at {_many(len(self.sampled), 'moment')})"
        failures = self.failures
        if not failures:
            return f"{head}, nothing wrong"
        lines = (f"  {line}" for failure in failures for line in str(failure).splitlines())
        return "\n".join([f"{head}, {len(failures)} of them wrong:", *lines])


def _short(result: CrashResult, size: int) -> str:
    """Return a result in one line of at most so many characters, its beginning."""
    line = " ".join(str(result).split())
    return line if len(line) <= size else f"{line[: size - 3]}..."


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Check:
    """A checker that runs a command; a status that is not in `ok` is wrong.

    In the arguments, ``{uri}`` stands for the state's NBD URI, and ``{file}`` for a
    file with a copy of its contents, which the command may change.  `timeout` is in
    seconds.

    >>> check = Check("qemu-img", "check", "-f", "qcow2", "{uri}", ok=(0, 3))
    >>> fsck = Check("e2fsck", "-fn", "{file}", timeout=60)
    """

    argv: tuple[str, ...]
    ok: tuple[int, ...] = (0,)
    timeout: float = CHECK_S

    def __init__(self, *argv: str, ok: Sequence[int] = (0,), timeout: float = CHECK_S) -> None:
        object.__setattr__(self, "argv", argv)
        object.__setattr__(self, "ok", tuple(ok))
        object.__setattr__(self, "timeout", timeout)

    def __call__(self, crash: CrashState) -> str | None:
        """Run the command; return what is wrong, if anything."""
        with ExitStack() as stack:
            names = {"{uri}": crash.uri}
            if any("{file}" in argument for argument in self.argv):
                directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="faultline-"))
                names["{file}"] = str(copied(crash, directory))
            argv = [_filled(argument, names) for argument in self.argv]
            done = _run(argv, self.timeout)
        if done.returncode in self.ok:
            return None
        said = "\n".join(done.stdout.strip().splitlines()[-LINES:])
        return f"{argv[0]} has ended with status {done.returncode}: {said}"


def _filled(argument: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        argument = argument.replace(name, value)
    return argument


def copied(crash: CrashState, directory: str | Path) -> Path:
    """Return a file in a directory with the contents of a state, copied by nbdcopy.

    >>> def check(crash: CrashState) -> None:
    ...     with tempfile.TemporaryDirectory() as directory:
    ...         assert copied(crash, directory).read_bytes().startswith(b"magic")
    """
    file = Path(directory, "state.img")
    done = _run(["nbdcopy", crash.uri, str(file)], CHECK_S)
    if done.returncode:
        raise OSError(f"{crash.uri} cannot be copied: {done.stdout.strip()}")
    return file


def _run(argv: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
    )


def examine(check: Checker, crash: CrashState) -> CrashResult:
    """Let a checker look at a state, and return what has come of it; in a worker.

    >>> examine(lambda crash: "too short", CrashState(1, "1-2:none", "nbd://host/crash0"))
    CrashResult(name='1/1-2:none', wrong='too short')
    """
    try:
        wrong = check(crash)
    except Exception as exc:
        return CrashResult(crash.name, f"{type(exc).__name__}: {exc}".rstrip(": "))
    return CrashResult(crash.name, wrong if isinstance(wrong, str) else None)


def uri_of_export(uri: str, export: str) -> str:
    """Return the URI of another export of the server that a URI names.

    >>> uri_of_export("nbd+unix:///vda?socket=m.nbd", "crash0")
    'nbd+unix:///crash0?socket=m.nbd'
    >>> uri_of_export("nbd://host:10810/vda", "crash0")
    'nbd://host:10810/crash0'
    """
    parts = urlsplit(uri)
    # urlunsplit writes no empty authority for a scheme that it does not know.
    text = urlunsplit(parts._replace(scheme="", path=f"/{quote(export)}"))
    return f"{parts.scheme}:{text if text.startswith('//') else f'//{text}'}"


def wanted(only: str | None) -> tuple[int, str] | None:
    """Return the moment and the state that a result's name says.

    Raises ValueError if it is no such name.

    >>> wanted("2/1-4:1-2"), wanted(None)
    ((2, '1-4:1-2'), None)
    """
    if only is None:
        return None
    moment, slash, state = only.partition("/")
    if not slash or not moment.isdecimal() or not state:
        raise ValueError(f"'{only}' is no MOMENT/STATE, such as 1/1-2:none")
    return int(moment), state
