# SPDX-License-Identifier: MIT
"""Plays a recording of real QEMU against a live machine; tests/golden/README.md has the rules.

Entries are taken in the recorded order: a request is sent when its kick
comes, a command when it comes, and an event, a reply or a completion is waited
for before going on.  So whatever QEMU had decided by some point of the
recording is decided here by the same point, and nothing depends on speed.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import nbd

from hatchery import Hatched
from live import TIMEOUT_S, Looks, Qmp, has_all
from made_once import put_images
from tree import RECORDINGS
from wire import Wire

SECTOR = 512

WRITTEN = 0x66
"""The byte that the recorder's guest writes."""

STALE = 0xAA
"""The byte that the recorder's guest finds in its buffer after a read that put nothing there."""

DEVICE_OPTIONS = re.compile(r",(addr|bus|disable-modern|disable-legacy|ioeventfd)=[^,]*")
"""Where QEMU puts the device and how it talks to its guest: an NBD export has neither."""

ANY_VALUE = re.compile(r"\.(timestamp|\w+_time_ns|idle_time_ns|actual-size|package)$")
"""Members whose values are a matter of the moment or the host; that they are there is not."""

READ_SECTORS, WRITE_SECTORS = "0x20", "0x30"


@dataclass(frozen=True)
class Recording:
    """One file of tests/golden: how QEMU was started, and all that was said."""

    name: str
    meta: Mapping[str, Any]
    entries: tuple[Mapping[str, Any], ...]

    @classmethod
    def load(cls, path: Path) -> Recording:
        first, *rest = (json.loads(line) for line in path.read_text().splitlines())
        return cls(path.stem, first["meta"], tuple(rest))

    @property
    def release(self) -> str:
        """The QEMU that was recorded, as the key `qemu` names it."""
        major, minor, *_ = self.meta["qemu"].split(".")
        return f"{major}.{minor}"

    def prepare(self, directory: Path) -> None:
        """Make the images and configuration files, under the names that were used."""
        put_images(directory, self.meta["files"], self.meta["setup"])

    def keys(self) -> list[str]:
        """Faultline's words for QEMU's release, and for its options that describe drives."""
        argv = self.meta["argv"]
        keys = {"-drive": "drive", "-blockdev": "blockdev", "-device": "device"}
        return [f"qemu={self.release}"] + [
            f"{keys[option]}={DEVICE_OPTIONS.sub('', value)}"
            for option, value in zip(argv, argv[1:], strict=False)
            if option in keys
        ]


@dataclass
class Comparison:
    """What was different, by path; `names` maps recorded automatic node names to ours."""

    found: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def compare(self, path: str, recorded: Any, ours: Any) -> None:
        if ANY_VALUE.search(path) and recorded is not None and ours is not None:
            return
        if isinstance(recorded, dict) and isinstance(ours, dict):
            for key in sorted(recorded.keys() | ours.keys()):
                self.compare(f"{path}.{key}", recorded.get(key), ours.get(key))
        elif isinstance(recorded, list) and isinstance(ours, list):
            for index in range(max(len(recorded), len(ours))):
                pair = (part[index] if index < len(part) else None for part in (recorded, ours))
                self.compare(f"{path}.{index}", *pair)
        elif not self._same(recorded, ours):
            self.found[path] = (recorded, ours)

    def _same(self, recorded: Any, ours: Any) -> bool:
        recorded, ours = _unordered(recorded), _unordered(ours)
        if not _is_automatic(recorded) or not _is_automatic(ours):
            return type(recorded) is type(ours) and bool(recorded == ours)
        known = self.names.setdefault(recorded, ours)
        return bool(known == ours) and list(self.names.values()).count(ours) == 1


def _is_automatic(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"#block\d+", value) is not None


def _unordered(value: Any) -> Any:
    """A file name of the form ``json:{...}`` without the order of its members."""
    if isinstance(value, str) and value.startswith("json:"):
        return json.loads(value.removeprefix("json:"))
    return value


def recordings(*kinds: str) -> list[Path]:
    """The recordings of both releases whose names begin with one of the `kinds`."""
    tops = RECORDINGS.values()
    return sorted(path for kind in kinds for top in tops for path in top.glob(f"{kind}-*.jsonl"))


def recording_id(path: Path) -> str:
    """What a test of the recording is called."""
    return f"{path.parent.name}-{path.stem}".removeprefix("7.2-")


def _status(event: Mapping[str, Any]) -> str | None:
    """What a job has come to; None for other events."""
    status: str | None = event.get("data", {}).get("status")
    return status


RESTS = (("paused", "running"), ("standby", "ready"))


def without_rests(events: list[Any], *, at_end: bool = False) -> list[Any]:
    """Without the pairs of events of a job that pauses and next goes on.

    QEMU drains more than what a change of the graph concerns, 10.0 all there
    is.  With `at_end` a job that has paused last may yet go on.
    """
    kept: dict[int, Any] = {}
    last: dict[str, int] = {}
    for number, event in enumerate(events):
        data = event.get("data", {})
        job = data.get("id") or data.get("device", "")
        before = kept.get(last.get(job, -1), {})
        if (_status(before), _status(event)) in RESTS:
            del kept[last.pop(job)]
        else:
            kept[number] = event
            last[job] = number
    if at_end:
        for number in last.values():
            if _status(kept[number]) in ("paused", "standby"):
                del kept[number]
    return list(kept.values())


def recording_without_rests(recording: Recording) -> Recording:
    """The recording without such pairs."""
    events = [entry["msg"] for entry in recording.entries if entry["kind"] == "event"]
    kept = {id(event) for event in without_rests(events)}
    entries = (e for e in recording.entries if e["kind"] != "event" or id(e["msg"]) in kept)
    return replace(recording, entries=tuple(entries))


FLOOD = re.compile(r"(\w+) events in .*\(only the first (\d+) kept in this file\)")


def floods(recording: Recording) -> dict[str, int]:
    """The events of which a recording has only the first ones, and how many of these."""
    notes = [entry["text"] for entry in recording.entries if entry["kind"] == "note"]
    return {match[1]: int(match[2]) for note in notes if (match := FLOOD.match(note))}


def without_surplus(events: list[Any], floods: Mapping[str, int]) -> list[Any]:
    """Without those of a flood that were not recorded: how many come depends on the client."""
    counts = Counter[str]()
    kept = []
    for event in events:
        name = event["event"]
        counts[name] += 1
        if counts[name] <= floods.get(name, counts[name]):
            kept.append(event)
    return kept


class OtherOrder(AssertionError):
    """Events came in another order than was recorded, or others."""


class Monitor:
    """What is said to the client: replies and events apart, each as it came and in its order.

    Ids, timestamps, the greeting, and whether an event has data at all are compared as well.
    """

    def __init__(self, path: str) -> None:
        self.wire = Wire.connect(path)
        self.greeting: Any = None
        self.replies: list[Any] = []
        self.events: list[Any] = []
        self.ended = False

    def receive(self) -> None:
        """Take what has arrived; the socket is readable."""
        with contextlib.suppress(ConnectionResetError):
            self.ended = not self.wire.arrive()
            while self.wire.has_message:
                self._sort(self.wire.receive())

    def _sort(self, message: Any) -> None:
        if "QMP" in message:
            self.greeting = message
        elif "event" in message:
            self.events.append(message)
        else:
            self.replies.append(message)


@dataclass
class Request:
    """A guest's request, and once it is answered its status as virtio would say it."""

    kind: str
    offset: int
    nbytes: int
    fua: bool = False
    buffer: Any = None
    cookie: int = 0
    status: str | None = None

    @property
    def looks(self) -> Looks:
        if self.kind == "flush":
            return "flush", 0, 0
        return self.kind.replace("_", "-"), self.offset, self.nbytes

    def submit(self, guest: nbd.NBD) -> None:
        """Send it; not from an nbd.Buffer, which libnbd 1.14 never frees."""
        flags = nbd.CMD_FLAG_FUA if self.fua else 0
        if self.kind == "read":
            self.buffer = bytearray(self.nbytes)
            self.cookie = guest.aio_pread(self.buffer, self.offset)
        elif self.kind == "write":
            self.buffer = bytearray([WRITTEN]) * self.nbytes
            self.cookie = guest.aio_pwrite(self.buffer, self.offset, flags=flags)
        elif self.kind == "flush":
            self.cookie = guest.aio_flush()
        elif self.kind == "discard":
            self.cookie = guest.aio_trim(self.nbytes, self.offset, flags=flags)
        else:
            assert self.kind == "write_zeroes", self.kind
            self.cookie = guest.aio_zero(
                self.nbytes, self.offset, flags=flags | nbd.CMD_FLAG_NO_HOLE
            )

    def answered(self, guest: nbd.NBD) -> bool:
        if self.status is None:
            with _as_status(self):
                if guest.aio_command_completed(self.cookie):
                    self.status = "OK"
        return self.status is not None

    def data(self) -> str | None:
        """What was read, in the words of the recordings."""
        if self.kind != "read" or self.status != "OK":
            return None
        found = set(self.buffer)
        return f"0x{found.pop():02x} x{self.nbytes}" if len(found) == 1 else "mixed"


@contextlib.contextmanager
def _as_status(request: Request) -> Iterator[None]:
    try:
        yield
    except nbd.Error:
        request.status = "IOERR"


class Player:
    """One play of a recording: `play` gives what was different, by path.

    Paths begin with the id of a command (`7.return.0.io-status`), `event` and
    its number, `guest` and the tag of the request, or `greeting`.  Without
    `rests`, a job that pauses and at once goes on is not looked at, on either side.
    """

    def __init__(
        self, recording: Recording, control: str, guest: nbd.NBD, *, rests: bool = True
    ) -> None:
        self._rests = rests
        self._recording = recording if rests else recording_without_rests(recording)
        self._floods = floods(recording)
        self._guest = guest
        # Whether a request is too small for the device is for the device to say.
        guest.set_strict_mode(guest.get_strict_mode() & ~nbd.STRICT_ALIGN)
        self._monitor = Monitor(control)
        self._observer = Qmp.connect(control)
        self._requests: dict[int, Request] = {}
        self._queued: list[Request] = []
        self._recorded_events: list[Any] = []
        self._recorded_replies: list[Any] = []
        self._comparison = Comparison()

    def play(self) -> dict[str, tuple[Any, Any]]:
        for entry in self._recording.entries:
            steps: dict[str, Callable[[Mapping[str, Any]], None]] = {
                "greeting": self._greeting,
                "command": self._command,
                "event": self._event,
                "response": self._response,
                "guest": self._act,
            }
            if entry["kind"] in steps:
                steps[entry["kind"]](entry)
        if self._quits():
            self._wait(lambda: self._monitor.ended, "the end of the connection")
        self._compare_streams()
        return self._comparison.found

    def close(self) -> None:
        self._monitor.wire.close()
        self._observer.close()

    def _quits(self) -> bool:
        commands = [entry for entry in self._recording.entries if entry["kind"] == "command"]
        return bool(commands) and commands[-1]["msg"]["execute"] == "quit"

    def _greeting(self, entry: Mapping[str, Any]) -> None:
        self._wait(lambda: self._monitor.greeting is not None, "the greeting")
        self._comparison.compare("greeting", entry["msg"], self._monitor.greeting)

    def _command(self, entry: Mapping[str, Any]) -> None:
        self._monitor.wire.send(json.dumps(entry["msg"]).encode())

    def _event(self, entry: Mapping[str, Any]) -> None:
        self._recorded_events.append(entry["msg"])
        wanted = len(self._recorded_events)
        self._wait(lambda: len(self._events()) >= wanted, f"event {entry['msg']}")

    def _events(self, *, at_end: bool = False) -> list[Any]:
        """Ours, as far as they are looked at; `at_end` as for `without_rests`."""
        events = without_surplus(self._monitor.events, self._floods)
        return events if self._rests else without_rests(events, at_end=at_end)

    def _response(self, entry: Mapping[str, Any]) -> None:
        self._recorded_replies.append(entry["msg"])
        wanted = len(self._recorded_replies)
        self._wait(lambda: len(self._monitor.replies) >= wanted, f"reply {entry['msg']}")

    def _compare_streams(self) -> None:
        """Compare each stream from end to end, so that nothing more and nothing less was said."""
        for index in range(max(len(self._recorded_replies), len(self._monitor.replies))):
            recorded, ours = self._recorded_replies[index:][:1], self._monitor.replies[index:][:1]
            number = (recorded or ours)[0].get("id")
            self._comparison.compare(f"{number}", *recorded or [None], *ours or [None])
        events = self._events()
        for index in range(max(len(self._recorded_events), len(events))):
            recorded, ours = self._recorded_events[index:][:1], events[index:][:1]
            self._comparison.compare(f"event.{index}", *recorded or [None], *ours or [None])

    def _act(self, entry: Mapping[str, Any]) -> None:
        actions = {
            "queue": self._queue,
            "kick": self._kick,
            "completion": self._completion,
            "poll": self._poll,
            "reset": self._reset,
            "ide-command": self._ide_command,
            "ide-status": self._ide_status,
        }
        actions[entry["action"]](entry)

    def _queue(self, entry: Mapping[str, Any]) -> None:
        offset = entry["sector"] * SECTOR
        request = Request(entry["request"], offset, entry["bytes"], entry.get("fua", False))
        self._requests[entry["tag"]] = request
        self._queued.append(request)

    def _kick(self, _entry: Mapping[str, Any]) -> None:
        for request in self._queued:
            request.submit(self._guest)
        self._queued.clear()
        self._arrive()

    def _arrive(self) -> None:
        """Wait until the machine has all that is not answered: what is sent next comes after it."""

        def have_arrived() -> bool:
            pending = self._pending()
            looks = [one.looks for tag, one in self._requests.items() if tag in pending]
            return not looks or has_all(self._observer, looks)

        self._wait(have_arrived, "the arrival of requests", 0.0)

    def _completion(self, entry: Mapping[str, Any]) -> None:
        tag = entry["tag"]
        request = self._requests[tag]
        self._wait(lambda: request.answered(self._guest), f"the completion of request {tag}")
        data = entry.get("data")
        if data == f"0x{STALE:02x} x{request.nbytes}":
            data = f"0x00 x{request.nbytes}" if entry["status"] == "OK" else None
        self._comparison.compare(f"guest.{tag}.status", entry["status"], request.status)
        self._comparison.compare(f"guest.{tag}.data", data, request.data())

    def _poll(self, entry: Mapping[str, Any]) -> None:
        self._expect_pending(set(entry["still_pending"]))

    def _expect_pending(self, wanted: set[int]) -> None:
        """Wait until no others are pending; then see that these are, and that they have come."""
        self._wait(lambda: self._pending() <= wanted, f"only {wanted} to be pending")
        self._arrive()
        self._comparison.compare("guest.pending", sorted(wanted), sorted(self._pending()))

    def _pending(self) -> set[int]:
        return {tag for tag, one in self._requests.items() if not one.answered(self._guest)}

    def _reset(self, entry: Mapping[str, Any]) -> None:
        """A virtio driver forgets what was held; over NBD it is answered, with an error."""
        for tag in entry["dropped"]:
            request = self._requests.pop(tag)
            answered = partial(request.answered, self._guest)
            self._wait(answered, f"an end of request {tag}")
            self._comparison.compare(f"guest.{tag}.dropped", "IOERR", request.status)

    def _ide_command(self, entry: Mapping[str, Any]) -> None:
        kind = {READ_SECTORS: "read", WRITE_SECTORS: "write"}[entry["command"]]
        request = Request(kind, entry["lba"] * SECTOR, entry["sectors"] * SECTOR)
        self._requests[0] = request
        request.submit(self._guest)
        self._arrive()

    def _ide_status(self, entry: Mapping[str, Any]) -> None:
        """The register says how a command ended, but of a write not whether it has ended.

        So the last STOP or RESUME tells whether the command is held.
        """
        states = [e["event"] for e in self._recorded_events if e["event"] in ("STOP", "RESUME")]
        if states[-1:] == ["STOP"]:
            self._expect_pending({0})
            return
        self._expect_pending(set())
        status = "IOERR" if "ERR" in entry["status"] else "OK"
        self._comparison.compare("guest.0.status", status, self._requests[0].status)

    def _wait(
        self, condition: Callable[[], bool], what: str, pause_s: float = TIMEOUT_S
    ) -> None:
        """Move both connections on until the condition holds, which one without them may do too."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{what} never came; events: {self._monitor.events}"
            self._move(min(left_s, pause_s))

    def _move(self, timeout_s: float) -> None:
        poll = select.poll()
        if not self._monitor.ended:
            poll.register(self._monitor.wire.socket, select.POLLIN)
        guest, direction = self._guest, self._guest.aio_get_direction()
        if direction:
            reading = direction & nbd.AIO_DIRECTION_READ and select.POLLIN
            writing = direction & nbd.AIO_DIRECTION_WRITE and select.POLLOUT
            poll.register(guest.aio_get_fd(), reading | writing)
        for fd, happened in poll.poll(timeout_s * 1000):
            if fd == self._monitor.wire.socket.fileno():
                self._monitor.receive()
                self._check_order()
            elif happened & select.POLLOUT:
                guest.aio_notify_write()
            else:
                guest.aio_notify_read()

    def _check_order(self) -> None:
        """Whether all is lost is known long before something has been waited for in vain."""
        ours = [event["event"] for event in self._events(at_end=True)]
        recorded = [e["msg"]["event"] for e in self._recording.entries if e["kind"] == "event"]
        if ours != recorded[: len(ours)]:
            raise OtherOrder(f"{ours} instead of {recorded}")


def play(recording: Recording, directory: Path, *keys: str) -> dict[str, tuple[Any, Any]]:
    """Play it with everything in `directory`; what was different, by path."""
    recording.prepare(directory)
    with Hatched(directory, *recording.keys(), *keys) as live, live.guest() as guest:
        player = Player(recording, live.control, guest)
        try:
            return player.play()
        finally:
            player.close()
