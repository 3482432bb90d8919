# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/replay.py.
"""The player of recordings: a fresh machine, its guests and its clients."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faultline.conversation import Reply
from faultline.errors import CommandError, MachineEnded, StartFailed, TimedOut
from faultline.process import Process
from faultline.recording import Recording, parse, placed, unplaced
from faultline.replay_events import EventPool
from faultline.replay_report import (
    Divergence,
    compare_reply,
    compare_rules,
    missing_event,
    not_caused,
    surplus_event,
)
from faultline.replay_steps import (
    Request,
    Step,
    attempts_of,
    command_of,
    depth,
    has_times,
    is_timed,
    requests_of,
    steps,
)
from faultline.sync.channel import Channel
from faultline.sync.replay_guests import SLICE_S, Guests
from faultline.sync.start import end, start_in
from faultline.sync.waiting import pause
from faultline.world import build_files, export_uri, keys_of, named_as_given, set_file

START_S = 60.0
"""How long the machine may take to start, in seconds."""

PATIENCE_S = 30.0
"""How much longer than in the recording something may take, in seconds."""

STRAY_S = 2.0
"""How much longer an event may take once a differing one of its name has come, in seconds."""

WRITTEN_S = 2.0
"""How long the new machine may take to write down what it has done, in seconds."""

PARKED_MS = 5
"""How long a request is at a node until it counts as one that waits there, in ms."""


@dataclass(slots=True)
class _Sent:
    """A command that was sent: where, and the id that its reply has."""

    channel: Channel
    name: str
    key: str


class Replay:
    """A recording that is being replayed, up to the line `until`.

    `images` are files to use instead of those of drives, by the ids of their exports;
    they are written to.  `at` is the line that has been reached, and `ready` the ready
    line of the machine.  `paced` is whether lines wait for their times.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        until: int | None = None,
        images: Mapping[str, str] | None = None,
        paced: bool = False,
        patience: float = PATIENCE_S,
    ) -> None:
        self.recording = recording
        self.at = 1
        self.ready: Mapping[str, Any] = {}
        self._until = until
        self._images = dict(images or {})
        self._paced = paced or is_timed(recording)
        self._patience = patience
        self._guests = Guests(recording)
        self._commands = {line.value: line for line in recording.lines if line.kind == "command"}
        self._pool = EventPool(line for line in recording.lines if line.kind == "event")
        self._seen = 0
        self._clients: dict[tuple[int, bool], Channel] = {}
        self._sent: dict[int, _Sent] = {}
        self._process: Process | None = None
        self._monitor: Channel | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="faultline-replay-")
        self._root = os.path.realpath(self._directory.name)
        self._replayed = Path(self._root, "replayed.jsonl")
        self._started = 0.0
        self._last_ms = 0.0

    def run(self) -> None:
        """Start the machine and go through the lines; raises Divergence for the first one.

        Raises BadRecording, StartFailed and OSError as well.
        """
        build_files(self.recording, Path(self._root), self._images)
        keys = keys_of(self.recording, self._root)
        keys += [f"record={self._replayed}", "record-data=off"]
        threads = max(16, depth(self._guests.requests.values()) + 1)
        directory = f"{self._root}{self.recording.header['directory']}"
        try:
            self._process, self.ready = start_in(
                directory, keys, ("--threads", str(min(threads, 1024))), START_S
            )
        except StartFailed as exc:
            text = named_as_given(str(exc), self.recording, self._root, self._images)
            raise StartFailed(text) from None
        self._monitor = Channel.open(self.ready["control"], START_S)
        self._ask("x-replay-stop", {"held": True})
        self._started = time.monotonic()
        for step in steps(self.recording, self._until):
            try:
                self._take(step)
            except (MachineEnded, TimedOut) as exc:
                raise Divergence(step.line.number, str(step), "done", str(exc)) from None
            self.at = step.line.number
            self._last_ms = step.line.ms
        if self._until is None:
            self._no_more_events()
        self._compare_rules()

    def let_go(self) -> None:
        """Let errors stop the machine by themselves from now on."""
        self._ask("x-replay-stop", {"held": False})

    def ended(self) -> None:
        """Wait until the machine has ended."""
        assert self._monitor is not None
        try:
            self._monitor.wait(lambda: None, None, lambda: "")
        except MachineEnded:
            return

    def close(self) -> None:
        """End the machine and everything that was made for it."""
        self._guests.close()
        for channel in self._clients.values():
            channel.close()
        if self._monitor is not None:
            self._monitor.close()
        if self._process is not None:
            end(self._process)
        self._directory.cleanup()

    def in_flight(self) -> list[Request]:
        """Return the requests that have no answer."""
        return self._guests.in_flight()

    def _take(self, step: Step) -> None:
        if self._paced and step.kind != "file":
            pause(self._started + step.line.ms / 1000 - time.monotonic())
        match step.kind:
            case "connecting":
                assert step.request is not None
                self._guests.connect(step.request, export_uri(self.ready, step.request.drive))
            case "disconnect":
                self._guests.leave(step.line.value, self._patience)
            case "hang-up":
                assert step.request is not None
                self._hang_up(step.request.connection)
            case "request":
                assert step.request is not None
                self._guests.submit(step.request)
            case "settle":
                assert step.request is not None
                self._settle(step, step.request)
            case "done" | "connect" | "refused":
                assert step.request is not None
                self._finish(step, step.request)
            case "file":
                set_file(self._root, step.line.value, bool(step.line.members.get("exists")))
            case "command":
                self._send(step)
            case "reply":
                self._answer(step)
            case "event":
                self._event(step)

    def _limit(self, step: Step) -> float:
        """Return how long a step may take, in seconds."""
        return self._patience + max(step.line.ms - self._last_ms, 0) / 1000

    def _ask(self, command: str, arguments: Mapping[str, Any]) -> Any:
        assert self._monitor is not None
        return self._monitor.execute(command, arguments, self._patience)

    def _finish(self, step: Step, request: Request) -> None:
        limit = self._limit(step)
        if not self._guests.wait(request, limit):
            raise Divergence(
                step.line.number, str(request), "it ended", f"no answer in {limit:g} s"
            )
        self._guests.finish(step.line, request)

    def _settle(self, step: Step, request: Request) -> None:
        """Wait until a request is over, or waits in the machine, or has been there for a while."""
        began = time.monotonic()
        while not self._guests.wait(request, 0.001):
            waited = time.monotonic() - began
            if waited > SLICE_S:
                self._guests.compare_ended()
            if waited > self._limit(step):
                raise Divergence(
                    step.line.number, str(request), "it reached its drive", "it has not"
                )
            found = [one for one in self._ask("x-query-requests", {}) if _is(one, request)]
            parked = [
                one for one in found if "waits-for" in one or one["age-ms"] >= PARKED_MS
            ]
            if len(parked) >= self._guests.alike(request):
                return

    def _hang_up(self, connection: int) -> None:
        """Close a connection, and wait until the machine has seen it."""
        self._guests.hang_up(connection)
        deadline = time.monotonic() + self._patience
        while any(
            one["connection"] == connection for one in self._ask("x-query-requests", {})
        ):
            if time.monotonic() > deadline:
                raise TimedOut(f"the machine keeps the requests of connection {connection}")
            pause(0.02)

    def _send(self, step: Step) -> None:
        line = step.line
        place = (line.members["client"], "exec-oob" in line.members)
        channel = self._clients.get(place)
        if channel is None:
            assert self._monitor is not None
            channel = Channel.open(self._monitor.path, self._patience)
            self._clients[place] = channel
        arguments = placed(line.members.get("arguments", {}), self._root)
        name = command_of(line)
        self._sent[line.value] = _Sent(channel, name, channel.send(name, arguments))
        # Two turns of the machine's loop: after the second, the command has begun.
        for _ in range(2):
            self._ask("query-name", {})

    def _reply(self, sent: _Sent, seconds: float) -> Reply:
        """Return the reply to a command; raises Divergence if requests end otherwise meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            try:
                return sent.channel.answer(sent.key, sent.name, min(max(left, 0), SLICE_S))
            except TimedOut:
                self._guests.compare_ended()
                if left <= 0:
                    raise TimedOut(f"no reply to {sent.name} within {seconds:g} s") from None

    def _answer(self, step: Step) -> None:
        sent = self._sent.pop(step.line.value)
        try:
            reply = self._reply(sent, self._limit(step))
            reply.result(sent.name)
            error = None
        except CommandError as exc:
            error = unplaced(exc.text, self._root)
        except TimedOut as exc:
            raise Divergence(step.line.number, sent.name, "a reply", str(exc)) from None
        compare_reply(step.line, sent.name, error)
        if self._paced and has_times(self._commands[step.line.value]):
            # The times of a rule begin when it is added, so what follows is as much later.
            late = time.monotonic() - step.line.ms / 1000
            self._started = max(self._started, late)

    def _look(self, step: Step) -> bool | None:
        """Take the events that have come; return True if that of the step is among them."""
        assert self._monitor is not None
        events = self._monitor.journal.events
        for event in events[self._seen :]:
            self._pool.add(event.name, unplaced(dict(event.data), self._root))
        self._seen = len(events)
        data = step.line.members.get("data")
        return self._pool.take(step.line.value, data) or None

    def _event(self, step: Step) -> None:
        if self._look(step):
            return
        if step.line.value == "STOP":
            self._ask("x-replay-stop", {"held": True})
        limit = self._limit(step)
        comes = self._comes_at_all(step, limit)
        if not comes and self._pool.stray(step.line.value) is not None:
            # That of this line may be under way still, and the other one be for a later line.
            comes = self._comes(step, min(limit, STRAY_S))
        if not comes:
            raise missing_event(step.line, self._pool, limit)

    def _comes_at_all(self, step: Step, seconds: float) -> bool:
        """Wait as `_comes` does; raise Divergence once requests show that it will not come."""
        deadline = time.monotonic() + seconds
        name, causes = step.line.value, None
        while True:
            left = deadline - time.monotonic()
            if self._comes(step, min(max(left, 0), SLICE_S), or_stray=True):
                return True
            causes = self._guests.causes(step.line) if causes is None else causes
            difference = self._guests.difference()
            are_over = causes and not any(self._guests.is_open(one) for one in causes)
            # What requests have caused that were over before is here before the answer.
            self._ask("query-name", {})
            if self._look(step):
                return True
            if self._pool.stray(name) is not None or left <= 0:
                return False
            if difference is not None:
                raise difference
            if are_over and self._pool.like(name) is None:
                raise not_caused(step.line, causes[0])

    def _comes(self, step: Step, seconds: float, *, or_stray: bool = False) -> bool:
        """Wait for the event of a step, or for one of its name that the recording does not have."""
        assert self._monitor is not None

        def look() -> bool | None:
            if self._look(step):
                return True
            is_stray = or_stray and self._pool.stray(step.line.value) is not None
            return False if is_stray else None

        try:
            return self._monitor.wait(look, seconds, lambda: "")
        except TimedOut:
            return False

    def _no_more_events(self) -> None:
        assert self._monitor is not None
        self._ask("query-name", {})
        for event in self._monitor.journal.events[self._seen :]:
            self._pool.add(event.name, unplaced(dict(event.data), self._root))
        surplus_event(self.at, self._pool)

    def _attempts(self) -> list[Request]:
        """Return the attempts to connect whose rules have been recorded."""
        attempts = self._guests.attempts.values()
        return [one for one in attempts if one.done is None or one.line != one.done.number]

    def _compare_rules(self) -> None:
        """Compare which rules have hit what, by what the new machine has recorded."""
        deadline = time.monotonic() + WRITTEN_S
        while True:
            with self._replayed.open("rb") as lines:
                again = parse(self._replayed.name, lines)
            # One after the other: each raises Divergence.
            is_whole = compare_rules(self._attempts(), attempts_of(again).values(), self.at)
            requests = self._guests.requests.values()
            if compare_rules(requests, requests_of(again).values(), self.at) and is_whole:
                return
            if time.monotonic() > deadline:
                return
            pause(0.01)


def _is(found: Mapping[str, Any], request: Request) -> bool:
    return bool(
        found["connection"] == request.connection
        and found["iotype"] == request.iotype
        and found["offset"] == request.start
        and found["length"] == request.end - request.start
    )
