# SPDX-License-Identifier: MIT
"""The machines of one test: started on demand, ended last first, and told of when it fails."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from faultline.drives import Drive, Path
from faultline.errors import CommandError, FaultlineError, MachineEnded
from faultline.every_io import Counts, Rounds, Target
from faultline.pytest_report import events_text, log_text
from faultline.sync.machine import Machine

OF_EACH_DRIVE = ("format", "size", "rerror", "werror", "read_only", "discard")
"""Arguments for each drive that does not say these itself."""

DEFAULT = Drive(size="1G", id="vda", rerror="stop", werror="enospc")
"""The drive of a machine without any; the machine has the same default."""


class MachineOfTest(Machine):
    """A machine of a test; before it ends, the rules of `every_io` are looked at."""

    def __init__(self, *drives: Drive | Path, **options: Any) -> None:
        super().__init__(*drives, **options)
        self.began = time.time()
        self.ended_told = False
        self.targets: dict[str, Target] = {}
        self.rounds: Rounds | None = None

    def arm(self, rounds: Rounds) -> None:
        """Add the rules of a round, on each drive, or on the node that is asked for."""
        self.rounds, number = rounds, rounds.machines
        rounds.machines += 1
        for kind, every in enumerate(rounds.kinds):
            for node in [every.node] if every.node is not None else self.drives:
                target = Target(number, node, kind)
                # A machine without that node has no part in it.
                with suppress(_NoNode):
                    self.targets[self._add(node, rounds.rule(target))] = target
                    rounds.armed(target)

    def _add(self, node: str, members: dict[str, Any]) -> str:
        try:
            return self.fault(node, **members).id
        except CommandError as exc:
            if exc.text.startswith("Cannot find device="):
                raise _NoNode from None
            raise

    def look(self) -> None:
        """Tell the rounds what became of the rules, if the machine can be asked."""
        if self.rounds is None or self._channel is None:
            return
        with suppress(FaultlineError):
            for rule in super().execute("x-query-faults"):
                target = self.targets.get(rule["id"])
                if target is not None:
                    self.rounds.counted(target, Counts(rule["seen"], rule["hits"]))

    def execute(self, command: str, *arguments: Any, **options: Any) -> Any:
        """Run a command; a machine that is going to end is looked at first."""
        if command == "quit":
            self.look()
        return super().execute(command, *arguments, **options)

    def kill(self) -> None:
        """End the machine by force; it is looked at first."""
        self.look()
        super().kill()

    def close(self) -> None:
        """End the machine; it is looked at first."""
        self.look()
        super().close()


class _NoNode(Exception):
    """A machine does not have the node that requests are to fail on."""


class Machines:
    """The machines of one test, or of one round of it.

    Each has random numbers of its own, which follow from `seed` and the test's name.
    """

    def __init__(self, test: str, seed: int, rounds: Rounds | None = None) -> None:
        self._test = test
        self._seed = seed
        self._rounds = rounds
        self._started: list[tuple[str, MachineOfTest]] = []

    def start(self, *drives: Drive | Path, **options: Any) -> Machine:
        """Start a machine and return it; the end of the test ends it.

        The arguments are those of `Machine`, and `rerror`, `werror`, `size`,
        `format`, `read_only` and `discard` for each drive that does not say these
        itself; without a drive, for the default one.
        """
        common = {name: options.pop(name) for name in OF_EACH_DRIVE if name in options}
        number = len(self._started)
        options.setdefault("seed", zlib.crc32(f"{self._seed} {self._test} {number}".encode()))
        machine = MachineOfTest(*with_common(drives, common), **options)
        machine.start()
        self._started.append((str(options.get("name") or f"machine {number + 1}"), machine))
        if self._rounds is not None:
            machine.arm(self._rounds)
        return machine

    def end(self) -> None:
        """End all machines, the last one first; raises the first error after all have ended."""
        errors = []
        for name, machine in reversed(self._started):
            try:
                machine.close()
            except MachineEnded as exc:
                if not machine.ended_told:
                    errors.append(MachineEnded(f"{name}: {exc}"))
        if errors:
            for more in errors[1:]:
                errors[0].add_note(str(more))
            raise errors[0]

    def sections(self) -> Iterator[tuple[str, str]]:
        """Yield what a report of a failing test has: heading and text, for each machine."""
        for name, machine in self._started:
            if machine.events:
                yield f"faultline events: {name}", events_text(machine.events, machine.began)
            text = log_text(machine.log, machine.began)
            status = machine.status
            if status is not None and status != 0:
                machine.ended_told = True
                text += f"\n{' ' * 16}the machine has ended with status {status}"
            yield f"faultline log: {name}", text
        if self._started:
            yield "faultline", f"for the same random numbers: --faultline-seed={self._seed}"


def with_common(drives: Sequence[Drive | Path], common: dict[str, Any]) -> Sequence[Drive | Path]:
    """Return drives, with common members for those that do not have them.

    >>> [drive.key() for drive in with_common(["a.img"], {"rerror": "ignore"})]
    ['drive=file=a.img,rerror=ignore']
    >>> [drive.key() for drive in with_common([], {"rerror": "ignore"})]
    ['drive=size=1073741824,id=vda,rerror=ignore,werror=enospc']
    """
    if not common:
        return drives
    if not drives:
        return [replace(DEFAULT, **common)]
    made = [drive if isinstance(drive, Drive) else Drive(drive) for drive in drives]
    return [
        replace(drive, **{k: v for k, v in common.items() if getattr(drive, k) is None})
        for drive in made
    ]
