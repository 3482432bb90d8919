# SPDX-License-Identifier: MIT
"""Messages by the grammar that a machine itself gives out, right ones and spoiled ones.

    scripts/endure grammar [--messages N] [--seed SEED]

Clients send them while a guest works on a drive of its own.  Whatever comes:
the connection stays, every command is answered with its own `id`, nothing in
the log tells of a bug, the guest's data is right, another client is answered.
"""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import nbd

from faultline import FaultlineError
from live import Live, make_image
from qcow2_images import create

LIFE = 2000
"""Messages after which there is a new machine: nodes and jobs become many."""

BATCH = 10
PATIENCE_S = 30.0
BLOCK = 4096
BLOCKS = 64

NEVER = {"quit", "stop", "system_reset"}
"""`quit` ends it all; the other two are sent with a `cont` behind them."""

NODE_NAMES = ["vda", "disk", "top", "free", "n1", "n2", "#block001", "nothing"]
FILE_NAMES = ["free.raw", "top.qcow2", "base.qcow2", "new-1", "new-2", "no/such/file", "/dev/null"]
IDS = ["j1", "j2", "j3", "b1", "b2", "vda", "fault0", "i"]
ODD_NAMES = [
    *("", ".", "/", "\0", "x\0y", "x\0", "\0x"),
    *("\u00e4\U0001f600", "\ufffd", "x" * 5000, "a" * 31, "0", "#"),
    *("json:", "json:{}", 'json:{"driver":"raw","file":"top"}', "json:" + "[" * 200),
    *("blkdebug:", "blkdebug::", "blkdebug::" * 100, "blkdebug::free.raw", "file:free.raw"),
    *("nbd:", "nbd://", "nbd:unix:no", "nbd+unix:///?socket=no", "nbd://127.0.0.1:1/x"),
    *("null-co://", "null-co:", "fat:x", "%s%n", "'", '"', "\\", "{", "\r\n", "true", "1"),
]
NUMBERS = [0, 1, 2, 511, 512, 513, 4096, 65535, 65536, 1 << 20, 1 << 31, (1 << 32) - 1]
ODD_NUMBERS = [-1, -(1 << 31), 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63), 1 << 64]
SLOW = {
    **{"open-timeout": 1, "reconnect-delay": 1, "latency-ns": 1000, "timeout": 1},
    **{"timeout-ms": 1, "delay-ms": 1, "jitter-ms": 1, "hang-ms": 1},
}
"""Members that say how long to wait: no larger than this."""

WAITING = {"x-fault-wait", "x-barrier"}
"""Commands that are not answered before something happens, unless `timeout-ms` says so."""


def odd_value(rng: random.Random) -> Any:
    values: list[Any] = [None, True, False, 1.5, -1e308, [], {}, [[]], {"a": 1}, [None], ""]
    values += ODD_NUMBERS
    return rng.choice([*values, *ODD_NAMES, rng.choice(NUMBERS), deep(rng.randrange(1, 300))])


def deep(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"driver": "raw", "file": value}
    return value


class Grammar:
    """Arguments by what `query-qmp-schema` has answered."""

    def __init__(self, schema: list[dict[str, Any]], rng: random.Random) -> None:
        self.types = {entry["name"]: entry for entry in schema}
        self.commands = sorted(e["name"] for e in schema if e["meta-type"] == "command")
        self.rng = rng
        self.nodes = NODE_NAMES
        self.jobs = IDS

    def command(self) -> dict[str, Any]:
        """A command with arguments as it wants them; those that have many come more often."""
        names = [name for name in self.commands if name not in NEVER]
        (name,) = self.rng.choices(names, [self._weight(name) for name in names])
        arguments = self.value(self.types[name]["arg-type"], "", 0)
        return {"execute": name, "arguments": arguments}

    def _weight(self, command: str) -> int:
        arguments = self.types[self.types[command]["arg-type"]]
        return 1 + len(arguments["members"]) + len(arguments.get("variants", ()))

    def value(self, type_name: str, member: str, depth: int) -> Any:
        entry, rng = self.types[type_name], self.rng
        kind = entry["meta-type"]
        if kind == "enum":
            return rng.choice(entry["values"])
        if kind == "array":
            return [
                self.value(entry["element-type"], member, depth + 1)
                for _ in range(rng.choice((0, 1, 1, 2, 3)))
            ]
        if kind == "alternate":
            choices = [choice["type"] for choice in entry["members"]]
            simple = [name for name in choices if self.types[name]["meta-type"] == "builtin"]
            choice = rng.choice(simple if depth > 3 and simple else choices)
            return self.value(choice, member, depth)
        return self.object(entry, depth) if kind == "object" else self.scalar(entry, member)

    def object(self, entry: dict[str, Any], depth: int) -> dict[str, Any]:
        found = {
            member["name"]: self.value(member["type"], member["name"], depth + 1)
            for member in entry["members"]
            if "default" not in member or self.rng.random() < 0.12
        }
        for variant in entry.get("variants", ()):
            if variant["case"] == found.get(entry["tag"]):
                found |= self.object(self.types[variant["type"]], depth)
        return found

    def scalar(self, entry: dict[str, Any], member: str) -> Any:
        rng, kind = self.rng, entry["json-type"]
        if member in SLOW:
            return SLOW[member]
        if kind == "string":
            return self.string(member)
        if kind == "boolean":
            return rng.random() < 0.5
        if kind in ("int", "number"):
            return rng.choice(NUMBERS if rng.random() < 0.8 else ODD_NUMBERS)
        return None if kind == "null" else odd_value(rng)

    def string(self, member: str) -> str:
        rng = self.rng
        if rng.random() < 0.04:
            return rng.choice(ODD_NAMES)
        if member in ("host", "port", "server"):
            return {"host": "127.0.0.1", "port": "1"}.get(member, "127.0.0.1")
        if member.endswith("filename") or member in ("snapshot-file", "config", "path"):
            return rng.choice(FILE_NAMES)
        if "id" in member or member == "name":
            return rng.choice(self.jobs if rng.random() < 0.7 else IDS)
        if member == "node-name":
            return rng.choice(NODE_NAMES)
        known = self.nodes if rng.random() < 0.8 else NODE_NAMES + IDS + FILE_NAMES
        return rng.choice(known)


def spoil(value: Any, rng: random.Random) -> Any:
    """The same with something in it that does not belong there, is missing, or is odd."""
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        what = rng.random()
        if what < 0.15:
            return {name: item for name, item in value.items() if name != key}
        if what < 0.3:
            return {**value, rng.choice([*ODD_NAMES, "id", "x-none"]): odd_value(rng)}
        item = value[key]
        if key in SLOW:
            return value
        deeper = isinstance(item, dict | list) and item and rng.random() < 0.7
        return {**value, key: spoil(item, rng) if deeper else odd_leaf(item, rng)}
    if isinstance(value, list) and value:
        index = rng.randrange(len(value))
        return [*value[:index], spoil(value[index], rng), *value[index + 1 :]]
    return odd_leaf(value, rng)


def odd_leaf(value: Any, rng: random.Random) -> Any:
    """Mostly of the same type: what is let in is looked at more closely."""
    if rng.random() < 0.3:
        return odd_value(rng)
    if isinstance(value, str):
        name = rng.choice(ODD_NAMES)
        return name + value if rng.random() < 0.2 else name
    if isinstance(value, int) and not isinstance(value, bool):
        return rng.choice(ODD_NUMBERS)
    return odd_value(rng)


def break_text(text: bytes, rng: random.Random) -> bytes:
    """What is no JSON any more, mostly."""
    place = rng.randrange(len(text))
    odd = rng.choice([b"\0", b"\xff", b"{", b"}", b"[", b'"', b"\\", b"\\ud800", b"1e999", b"NaN,"])
    what = rng.random()
    if what < 0.4:
        return text[:place] + odd + text[place:]
    if what < 0.6:
        return text[:place] + text[place + 1 :]
    if what < 0.8:
        return text[:place]
    return text.replace(b":", b":" + text[:place], 1)


@dataclass
class Tally:
    """What has been sent, and how long others have waited."""

    sent: int = 0
    succeeded: int = 0
    refused: int = 0
    broken: int = 0
    waited_s: float = 0.0
    guest_waited_s: float = 0.0
    by_command: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.sent} messages: {self.succeeded} succeeded, {self.refused} were refused,"
            f" {self.broken} were no JSON; another client waited {self.waited_s * 1000:.0f} ms"
            f" at most, a guest {self.guest_waited_s * 1000:.0f} ms"
        )


class Talker:
    """A client that sends what the grammar gives, and checks the answers."""

    def __init__(self, live: Live, rng: random.Random, tally: Tally) -> None:
        self.qmp = live.qmp()
        self.wire = live.wire()
        self.wire.socket.settimeout(PATIENCE_S)
        self.rng = rng
        self.tally = tally
        self.grammar = Grammar(self.qmp("query-qmp-schema"), rng)
        self.number = 0

    def close(self) -> None:
        self.wire.close()
        self.qmp.close()

    def batch(self) -> None:
        """Some messages in one piece, and their answers."""
        if self.number % 5 == 0:
            self._look_around()
        messages = [self._message() for _ in range(BATCH)]
        if self.rng.random() < 0.1:
            messages[3:3] = [{"execute": self.rng.choice(("stop", "system_reset"))}]
            messages[4:4] = [{"execute": "cont"}]
        for message in messages:
            self.number += 1
            message.setdefault("id", self.number)
        text = b"".join(json.dumps(message).encode() for message in messages)
        self.wire.send(text)
        for message in messages:
            self._answered(message)
        if self.rng.random() < 0.3:
            self._break(json.dumps(self.rng.choice(messages)).encode())

    def _look_around(self) -> None:
        """Learn what there is, but for what nobody is to touch."""
        nodes = self.qmp("query-named-block-nodes", flat=True)
        names = [node["node-name"] for node in nodes if node["node-name"] != "own-node"]
        self.grammar.nodes = ["vda", "/machine/peripheral/d", *names]
        self.grammar.jobs = [job["id"] for job in self.qmp("query-jobs")] or IDS
        self.qmp.take_events()

    def _message(self) -> dict[str, Any]:
        message = self.grammar.command()
        if self.rng.random() < 0.4:
            arguments = message["arguments"]
            for _ in range(self.rng.choice((1, 1, 2))):
                arguments = spoil(arguments, self.rng)
            message["arguments"] = arguments
        if message["execute"] in WAITING and isinstance(message["arguments"], dict):
            message["arguments"].setdefault("timeout-ms", 1)
        if self.rng.random() < 0.05:
            message["id"] = odd_value(self.rng)
        if self.rng.random() < 0.02:
            message[self.rng.choice(ODD_NAMES)] = odd_value(self.rng)
        return message

    def _answered(self, message: dict[str, Any]) -> None:
        shown = json.dumps(message)[:500]
        try:
            reply = self._reply()
        except (EOFError, ConnectionError) as exc:
            raise AssertionError(f"hung up on: {shown}") from exc
        except TimeoutError as exc:
            raise AssertionError(f"no answer to: {shown}") from exc
        assert reply.get("id", self) == message["id"], (shown, reply)
        if "error" in reply:
            assert "bug of ours" not in reply["error"]["desc"], (shown, reply)
            self.tally.refused += 1
        else:
            self.tally.succeeded += 1
            name = message["execute"]
            self.tally.by_command[name] = self.tally.by_command.get(name, 0) + 1
        self.tally.sent += 1

    def _break(self, text: bytes) -> None:
        """Send what may be no JSON; a byte that fits nowhere ends it, and all is well again."""
        self.number += 1
        name = f"after {self.number}"
        sync = json.dumps({"execute": "query-name", "id": name}).encode()
        self.wire.send(break_text(text, self.rng) + b"\xff\xff" + sync)
        while self._reply().get("id") != name:
            pass
        self.tally.sent += 1
        self.tally.broken += 1

    def _reply(self) -> dict[str, Any]:
        message = self.wire.reply()
        assert message.keys() - {"id"} in ({"return"}, {"error"}), message
        return message


class Neighbour(threading.Thread):
    """Somebody who has nothing to do with it: another client, or a guest."""

    def __init__(self, live: Live) -> None:
        super().__init__()
        self.live = live
        self.over = threading.Event()
        self.failure: BaseException | None = None
        self.waited_s = 0.0

    def run(self) -> None:
        try:
            for _ in self.steps():
                if self.over.wait(0.005):
                    break
        except (AssertionError, FaultlineError, nbd.Error) as exc:
            self.failure = exc

    def steps(self) -> Iterator[None]:
        raise NotImplementedError

    def end(self) -> float:
        """How long it has waited at most; raises what went wrong."""
        self.over.set()
        self.join(PATIENCE_S)
        assert not self.is_alive(), f"{type(self).__name__} waits"
        if self.failure is not None:
            raise AssertionError(f"{type(self).__name__}: {self.failure!r}") from self.failure
        return self.waited_s

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.waited_s = max(self.waited_s, time.monotonic() - begin)


class Asker(Neighbour):
    def steps(self) -> Iterator[None]:
        with self.live.qmp() as qmp:
            while True:
                with self.timed():
                    qmp("query-status")
                qmp.take_events()
                yield


class Guest(Neighbour):
    """Writes blocks of a drive that no message names the right way, and reads them again.

    A `system_reset` may drop what it is at, and `x-power-cut` hangs up: then it
    connects again, and does that request anew.
    """

    def steps(self) -> Iterator[None]:
        rng = random.Random(0)
        content = [bytes(BLOCK)] * BLOCKS
        self._connect()
        try:
            while True:
                block, data = rng.randrange(BLOCKS), rng.randbytes(16) * (BLOCK // 16)
                with self.timed():
                    self._insist("pwrite", data, block * BLOCK)
                content[block] = data
                block = rng.randrange(BLOCKS)
                read = self._insist("pread", BLOCK, block * BLOCK)
                assert read == content[block], f"block {block} is wrong"
                yield
        finally:
            del self._guest  # which closes the connection

    def _connect(self) -> None:
        """Connect, also while one power cut follows the other."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self._guest = nbd.NBD()
            try:
                self._guest.connect_uri(self.live.uri("own"))
                return
            except nbd.Error:
                if time.monotonic() > deadline:
                    raise

    def _insist(self, request: str, *args: Any) -> Any:
        while True:
            try:
                return getattr(self._guest, request)(*args)
            except nbd.Error as exc:
                if not self._guest.aio_is_ready():
                    self._connect()
                elif exc.errno != "ESHUTDOWN":
                    raise


def life(directory: Path, seed: str, messages: int, tally: Tally) -> None:
    """One machine, to which so many messages are sent."""
    rng = random.Random(seed)
    make_image(directory / "own.raw", BLOCKS * BLOCK)
    make_image(directory / "disk.raw", 1 << 20)
    make_image(directory / "free.raw", 1 << 20)
    create(directory / "base.qcow2", "1M")
    create(directory / "top.qcow2", "1M", "-b", "base.qcow2", "-F", "qcow2")
    keys = (
        "blockdev=driver=file,filename=own.raw,node-name=own-node",
        "blockdev=driver=file,filename=disk.raw,node-name=disk",
        "drive=id=vda,file=top.qcow2,format=qcow2,rerror=stop,werror=stop",
    )
    devices = (
        "device=virtio-blk-pci,id=own,drive=own-node",
        "device=virtio-blk-pci,id=d,drive=disk",
    )
    with Live(directory, *keys, *devices) as live:
        talkers = [Talker(live, rng, tally) for _ in range(2)]
        neighbours = [Asker(live), Guest(live)]
        for neighbour in neighbours:
            neighbour.start()
        try:
            aim = tally.sent + messages
            while tally.sent < aim:
                talkers[tally.sent % 2].batch()
            with live.qmp() as qmp:
                qmp("cont")
            tally.waited_s = max(tally.waited_s, neighbours[0].end())
            tally.guest_waited_s = max(tally.guest_waited_s, neighbours[1].end())
        finally:
            for neighbour in neighbours:
                neighbour.over.set()
            for talker in talkers:
                talker.close()
        assert live.stop() == 0
        log = live.log.read_text()
        assert "Traceback" not in log and "bug of ours" not in log, log[-3000:]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--messages", default=100_000, show_default=True)
@click.option("--seed", default=None, help="That a run has printed, to do it again.")
def main(messages: int, seed: str | None) -> None:
    """Send so many messages; end at the first that is not dealt with as it should."""
    seed = seed or str(random.randrange(1 << 32))
    tally, number = Tally(), 0
    while tally.sent < messages:
        name = f"{seed}/{number}"
        print(f"life {name}: {tally}", flush=True)
        with tempfile.TemporaryDirectory(prefix="faultline-grammar-") as directory:
            life(Path(directory), name, min(LIFE, messages - tally.sent), tally)
        number += 1
    print(tally)
    print(f"{len(tally.by_command)} commands have succeeded: {sorted(tally.by_command)}")


if __name__ == "__main__":
    main(prog_name="scripts/endure grammar")
