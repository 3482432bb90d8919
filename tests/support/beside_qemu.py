# SPDX-License-Identifier: MIT
"""One script for two machines, QEMU and this one: what they say and what they leave is compared.

Replies are one stream, events another, as tests/golden/README.md has it.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faultline import CommandError, Event, TimedOut
from hatchery import Hatched
from image_checks import backing_name, format_of, found_good, run
from live import Live, Qmp
from recorder import HALT, MACHINE, QEMU, installed_release
from replay import Comparison, without_rests

OF_A_NODE = ("node-name", "drv", "file", "ro", "backing_file", "backing_file_depth")
"""What is compared of a node; sizes on the host and the like are not."""

_MADE: dict[tuple[object, ...], bytes] = {}
"""Images by what they were made of: both machines begin with the same ones."""

MOMENT = ("busy", "offset", "current-progress", "len", "total-progress")
"""Of a job that has not come to its end: where it happens to be."""


def without_the_moment(job: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if key not in MOMENT}


class Images:
    """Makes images in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.made: list[str] = []

    def img(self, *words: str) -> None:
        """Run qemu-img beside the images."""
        run(["qemu-img", *words], self.directory)

    def image(
        self, name: str, size: str = "2M", *writes: str, below: str = "", **opts: str
    ) -> None:
        """Make an image by `name`'s suffix, over another, with what qemu-io writes to it."""
        key = (name, size, writes, below, *sorted(opts.items()))
        if key not in _MADE:
            self._make(name, size, writes, below, opts)
            _MADE[key] = (self.directory / name).read_bytes()
        (self.directory / name).write_bytes(_MADE[key])
        self.made.append(name)

    def _make(
        self, name: str, size: str, writes: tuple[str, ...], below: str, opts: dict[str, str]
    ) -> None:
        image_format = format_of(name)
        command = ["create", "-q", "-f", image_format]
        if below:
            command += ["-b", below, "-F", format_of(below)]
        if opts:
            command += ["-o", ",".join(f"{key}={value}" for key, value in opts.items())]
        self.img(*command, name, size)
        if writes:
            words = [word for write in writes for word in ("-c", write)]
            run(["qemu-io", "-f", image_format, *words, name], self.directory)


class Side(Images):
    """One of the two machines; `replies` and `events` are all it has said."""

    def __init__(self, qmp: Qmp, directory: Path) -> None:
        super().__init__(directory)
        self.ended = False
        self.replies: list[Any] = []
        self.events: list[dict[str, Any]] = []
        self._qmp = qmp
        self._seen = 0

    @property
    def is_qemu(self) -> bool:
        return self.directory.name == "qemu"

    def __call__(self, command: str, **arguments: Any) -> Any:
        """Run a command (`_` stands for `-`); None if it fails, and the error is written down."""
        return self.execute(
            command, {name.replace("_", "-"): value for name, value in arguments.items()}
        )

    def execute(self, command: str, arguments: dict[str, Any]) -> Any:
        """The same with the arguments as they go on the wire."""
        try:
            answer = self._qmp.execute(command, arguments)
        except CommandError as exc:
            self._reply(command, {"class": exc.error_class, "desc": exc.text})
            return None
        finally:
            self._take_events()
        self._reply(command, answer)
        return answer

    def ask(self, command: str, **arguments: Any) -> Any:
        """The same for what is not to be compared."""
        answer = self._qmp(command, **arguments)
        self._take_events()
        return answer

    def wait(self, name: str, **data: Any) -> dict[str, Any]:
        """The next event of that name with such data; the same one is not found twice."""
        while True:
            while self._seen < len(self.events):
                event = self.events[self._seen]
                self._seen += 1
                if event["event"] == name and data.items() <= event["data"].items():
                    return event
            try:
                self._write_down(self._qmp.next_event())
            except TimedOut:
                raise AssertionError(f"no {name} {data}: {self.replies} {self.events}") from None

    def status(self, job: str, status: str) -> None:
        """Wait until a job comes to a status; `null` is its end."""
        self.wait("JOB_STATUS_CHANGE", id=job, status=status)

    def first_part(self, *jobs: str) -> None:
        """Wait until jobs with speed=1 have copied a part, and so sleep.

        Who cancels one before leaves it to chance whether the target has that part.
        """
        begun: set[str] = set()
        while not begun.issuperset(jobs or ("j",)):
            shown = self.ask("query-jobs")
            begun = {job["id"] for job in shown if job["current-progress"]}

    def node(self, name: str, file: str, *, blkdebug: Any = None, **more: Any) -> None:
        """blockdev-add of an image, the file below called NAME-file; `blkdebug` has its rules."""
        below: dict[str, Any] = {"driver": "file", "filename": file}
        below["node-name"] = f"{name}-file"
        if blkdebug is not None:
            below = {"driver": "blkdebug", "image": below, "inject-error": blkdebug}
        options = {key.replace("_", "-"): value for key, value in more.items()}
        options = {"driver": format_of(file), "file": below, **options}
        self("blockdev-add", node_name=name, **options)

    def quit(self) -> None:
        """Let the machine end, and write down what it says until it is gone."""
        self.ended = True
        self._reply("quit", self._qmp("quit"))
        for event in self._qmp.until_the_end():
            self._write_down(event)

    def look(self) -> list[dict[str, Any]]:
        """Write down what nodes there are, and how they are on each other; the jobs as well."""
        nodes = self.ask("query-named-block-nodes")
        seen = []
        for node in sorted(nodes, key=lambda node: str(node["node-name"])):
            if not node["node-name"].startswith(("#", "d0")):
                entry = {key: node[key] for key in OF_A_NODE if key in node}
                entry["full-backing"] = node["image"].get("full-backing-filename")
                entry["bitmaps"] = node.get("dirty-bitmaps")
                seen.append(entry)
        self._reply("look", seen)
        self.jobs()
        return seen

    def count_nodes(self) -> None:
        """Write down how many nodes there are, with those that nobody has named."""
        self._reply("nodes", len(self.ask("query-named-block-nodes", flat=True)))

    def jobs(self) -> Any:
        """Write down all jobs, without what is a matter of the moment."""
        jobs = self.ask("query-block-jobs")
        steady = [
            without_the_moment(job) if job["status"] in ("running", "paused") else job
            for job in jobs
        ]
        self._reply("jobs", steady)
        return jobs

    def remove_nodes(self) -> None:
        """Close what the case has opened, and write down what cannot be closed."""
        kept = {"d0"}
        while names := [name for name in self._names() if name not in kept]:
            gone = False
            for name in names:
                with contextlib.suppress(CommandError):
                    self.ask("blockdev-del", node_name=name)
                    gone = True
            if not gone:
                break
        self._reply("left", names)

    def _names(self) -> list[str]:
        nodes = self.ask("query-named-block-nodes", flat=True)
        names = (str(node["node-name"]) for node in nodes)
        return sorted(name for name in names if not name.startswith("#"))

    def write(self, offset: str, length: str, pattern: int, drive: str = "drive0") -> None:
        """A guest's write; the sizes as qemu-io takes them."""
        raise NotImplementedError

    def discard(self, offset: str, length: str, drive: str = "drive0") -> None:
        """A guest's discard."""
        raise NotImplementedError

    def _reply(self, command: str, answer: Any) -> None:
        self.replies.append([command, self._anywhere(answer)])

    def _take_events(self) -> None:
        for event in self._qmp.take_events():
            self._write_down(event)

    def _write_down(self, event: Event) -> None:
        data = dict(event.data)
        if event.name == "BLOCK_JOB_CANCELLED":
            data = without_the_moment(data)
        self.events.append(self._anywhere({"event": event.name, "data": data}))

    def _anywhere(self, value: Any) -> Any:
        """Without what is so only here: the machine's directory, the numbers of automatic names."""
        if isinstance(value, dict):
            return {key: self._anywhere(member) for key, member in value.items()}
        if isinstance(value, list):
            return [self._anywhere(member) for member in value]
        if not isinstance(value, str):
            return value
        return re.sub(r"#block\d+", "#block", value.replace(str(self.directory), ""))


class QemuSide(Side):
    def write(self, offset: str, length: str, pattern: int, drive: str = "drive0") -> None:
        self._qemu_io(drive, f"write -P {pattern} {offset} {length}")

    def discard(self, offset: str, length: str, drive: str = "drive0") -> None:
        self._qemu_io(drive, f"discard {offset} {length}")

    def _qemu_io(self, drive: str, command: str) -> None:
        self.ask("human-monitor-command", command_line=f'qemu-io {drive} "{command}"')


class OurSide(Side):
    live: Live

    def write(self, offset: str, length: str, pattern: int, drive: str = "drive0") -> None:
        with self.live.guest(drive) as guest:
            guest.pwrite(bytes([pattern]) * number(length), number(offset))

    def discard(self, offset: str, length: str, drive: str = "drive0") -> None:
        with self.live.guest(drive) as guest:
            guest.trim(number(length), number(offset))


def number(text: str) -> int:
    units = {"k": 1 << 10, "M": 1 << 20}
    return int(text.rstrip("kM")) * units.get(text[-1], 1)


class Shared:
    """Two machines for many cases; a case that has gone wrong leaves none to the next one."""

    def __init__(self, make_directory: Callable[[], Path]) -> None:
        self._make_directory = make_directory
        self._running = contextlib.ExitStack()
        self._pair: Pair | None = None

    def play(self, case: Callable[[Side], None]) -> None:
        if self._pair is None:
            pair = Pair(self._make_directory())
            self._pair = self._running.enter_context(pair.running(*DRIVE))
        try:
            self._pair.play(case)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._pair = None
        self._running.close()


DRIVE = (
    "-drive if=none,id=drive0,node-name=d0,driver=null-co,size=1048576",
    "-device virtio-blk-pci,drive=drive0,id=vd0",
)
"""What machines have that are there for nodes only."""


class Pair:
    """Both machines, started with the same drives; `play` runs a case on each."""

    def __init__(self, directory: Path) -> None:
        self.homes = directory / "qemu", directory / "ours"
        self._made: list[str] = []
        for home in self.homes:
            home.mkdir()

    def make(self, images: Callable[[Images], None]) -> None:
        """Make the images that the machines start with."""
        for home in self.homes:
            made = Images(home)
            images(made)
        self._made = made.made

    @contextlib.contextmanager
    def running(self, *options: str) -> Iterator[Pair]:
        """`options` are QEMU's, "-drive ..." and so on."""
        keys = [option[1:].replace(" ", "=", 1) for option in options]
        with contextlib.ExitStack() as stack:
            theirs = stack.enter_context(qemu(self.homes[0], options))
            keys += [f"qemu={installed_release()}", "job-error-check=modern"]
            live = stack.enter_context(Hatched(self.homes[1], *keys))
            self.live = live
            self._qmps = theirs, stack.enter_context(live.qmp())
            yield self

    def sides(self) -> tuple[Side, Side]:
        """QEMU and this machine, neither of which has said anything."""
        ours = OurSide(self._qmps[1], self.homes[1])
        ours.live = self.live
        return QemuSide(self._qmps[0], self.homes[0]), ours

    def play(self, case: Callable[[Side], None]) -> None:
        """Run `case` on both; both must say the same, and make the same of the images."""
        theirs, ours = self.sides()
        for side in (theirs, ours):
            side.made += self._made
            case(side)
            if not side.ended:
                side.remove_nodes()
        compare(theirs, ours)
        for side in (theirs, ours):
            if self._made and not side.ended:
                # These stay open until then; what is not yet written of their tables is at the end.
                side.quit()
        compare_images(theirs, ours)


@contextlib.contextmanager
def qemu(home: Path, options: tuple[str, ...]) -> Iterator[Qmp]:
    """QEMU, whose processor does nothing, and its control socket."""
    (home / "halt.bin").write_bytes(HALT)
    control = str(home / "qmp.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(control)
        listener.listen(1)
        words = [word for option in options for word in option.split(" ", 1)]
        monitor = f"socket,id=c,fd={listener.fileno()},server=on,wait=off"
        argv = [QEMU, *shlex.split(MACHINE), *words]
        argv += ["-chardev", monitor, "-mon", "chardev=c,mode=control"]
        process = subprocess.Popen(
            argv, cwd=home, pass_fds=[listener.fileno()], stdout=subprocess.DEVNULL
        )
        try:
            with Qmp.connect(control) as qmp:
                yield qmp
        finally:
            process.kill()
            process.wait()


def compare(theirs: Side, ours: Side) -> None:
    """Raise AssertionError with all that is different."""
    if installed_release() == "10.0":
        theirs.events, ours.events = without_rests(theirs.events), without_rests(ours.events)
    for what in ("replies", "events"):
        comparison = Comparison()
        comparison.compare(what, getattr(theirs, what), getattr(ours, what))
        assert not comparison.found, (
            f"{comparison.found}\nQEMU: {getattr(theirs, what)}\nours: {getattr(ours, what)}"
        )


def compare_images(theirs: Side, ours: Side) -> None:
    """The images of a case show the same, are on the same, and ours are sound."""
    assert ours.made == theirs.made
    for name in ours.made:
        image_format = format_of(name)
        both = [side.directory / name for side in (theirs, ours)]
        formats = ["-f", image_format, "-F", image_format]
        found_good(["qemu-img", "compare", "-U", *formats, *map(str, both)], both)
        if image_format == "qcow2":
            comparison = Comparison()
            comparison.compare(name, *(backing_name(path) for path in both))
            assert not comparison.found
            found_good(["qemu-img", "check", "-q", "-U", "-f", "qcow2", str(both[1])], both[1:])
