# SPDX-License-Identifier: MIT
"""Bytes on the NBD socket that no client sends.

    scripts/endure hostile [--items N] [--seed SEED]

Half handshakes, wrong magic, huge lengths, floods of options, requests beyond
the end, and an end of the connection anywhere in it, while a guest works on
the same machine: its data is right, and threads and descriptors come back.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click

from grammar import PATIENCE_S, Guest
from live import Live, Qmp, make_image

LIFE = 500
"""Items after which there is a new machine."""

SIZE = 1 << 20
TOGETHER = 4

OPTION_MAGIC = 0x49484156454F5054
REQUEST_MAGIC = 0x25609513
EXPORT_NAME, ABORT, LIST, INFO, GO, STRUCTURED_REPLY, SET_META_CONTEXT = 1, 2, 3, 6, 7, 8, 10
READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
HANDSHAKE = struct.Struct(">QQH")
FLAGS = struct.pack(">I", 3)

NUMBERS = [0, 1, 2, 511, 512, 4096, SIZE - 1, SIZE, SIZE + 1, 1 << 25, (1 << 25) + 1]
HUGE = [1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def option(number: int, data: bytes = b"", magic: int = OPTION_MAGIC, length: int = -1) -> bytes:
    return struct.pack(">QII", magic, number, len(data) if length < 0 else length) + data


def named(name: bytes, *infos: int) -> bytes:
    """What INFO and GO take."""
    return struct.pack(">I", len(name)) + name + struct.pack(f">H{len(infos)}H", len(infos), *infos)


def request(
    kind: int,
    offset: int,
    length: int,
    data: bytes = b"",
    flags: int = 0,
    magic: int = REQUEST_MAGIC,
) -> bytes:
    length &= 0xFFFFFFFF
    return struct.pack(">IHHQQI", magic, flags, kind, 7, offset, length) + data


def begun(name: bytes = b"vda") -> bytes:
    """All that a client says before its first request."""
    return FLAGS + option(GO, named(name))


Items = dict[str, Callable[[random.Random], bytes]]


def any_option(rng: random.Random) -> bytes:
    number = rng.choice((*range(12), 1 << 31, rng.getrandbits(32)))
    name = rng.choice((b"vda", b"", b"x" * 4096, b"x" * 5000, b"\0", b"\xff\xfe", b"nothing"))
    data = rng.choice((b"", named(name), named(name, 3, 3, 3), name, rng.randbytes(50)))
    length = rng.choice((-1, -1, -1, 0, 1, 65535, (1 << 32) - 1))
    return option(number, data, length=length)


def any_request(rng: random.Random) -> bytes:
    """One within the drive does no harm: a guest has another one."""
    kind = rng.choice((*range(8), 8, 255, 65535))
    offset, length = rng.choice(NUMBERS + HUGE), rng.choice(NUMBERS + HUGE)
    data = rng.randbytes(rng.choice((0, 0, 1, 512, 4096))) if kind == WRITE else b""
    flags = rng.choice((0, 0, 0, 1, 2, 4, 8, 16, 0xFFFF))
    magic = REQUEST_MAGIC if rng.random() < 0.95 else rng.getrandbits(32)
    return request(kind, offset, length, data, flags, magic)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


ITEMS: Items = {
    "nothing": lambda rng: b"",
    "noise": lambda rng: rng.randbytes(rng.randrange(1, 300)),
    "flags": lambda rng: struct.pack(">I", rng.getrandbits(32)),
    "half a handshake": lambda rng: cut(begun(), rng),
    "wrong magic": lambda rng: FLAGS + option(GO, named(b"vda"), magic=rng.getrandbits(64)),
    "export that is not there": lambda rng: FLAGS + option(GO, named(b"nothing")),
    "old way": lambda rng: FLAGS + option(EXPORT_NAME, rng.choice((b"vda", b"no", b"x" * 5000))),
    "options": lambda rng: FLAGS + b"".join(any_option(rng) for _ in range(rng.randrange(1, 20))),
    "a flood of options": lambda rng: FLAGS + option(LIST) * rng.randrange(100, 2000),
    "meta contexts": lambda rng: FLAGS
    + option(STRUCTURED_REPLY)
    + option(SET_META_CONTEXT, rng.choice((named(b"vda"), rng.randbytes(40)))),
    "abort": lambda rng: FLAGS + option(ABORT) + rng.randbytes(8),
    "requests": lambda rng: begun()
    + b"".join(any_request(rng) for _ in range(rng.randrange(1, 20))),
    "a request cut off": lambda rng: begun() + cut(any_request(rng), rng),
    "reads and away": lambda rng: begun() + request(READ, 0, 1 << 19) * 16,
    "a write without its data": lambda rng: begun() + request(WRITE, 0, 1 << 24, bytes(4096)),
    "beyond the end": lambda rng: begun()
    + b"".join(request(kind, SIZE - 1, 512, bytes(512) * (kind == WRITE)) for kind in range(8)),
    "a goodbye in between": lambda rng: begun() + request(DISCONNECT, 0, 0) + any_request(rng),
}


class Attack:
    """One connection: bytes, perhaps in pieces; the answer is read in part, or not at all."""

    def __init__(self, live: Live, rng: random.Random) -> None:
        self.rng = rng
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(live.nbd_socket)

    def begin(self, data: bytes) -> None:
        if self.rng.random() < 0.7:
            with contextlib.suppress(ConnectionError):
                self.socket.recv(HANDSHAKE.size)
        self.socket.setblocking(False)
        with contextlib.suppress(ConnectionError, BlockingIOError):
            while data:
                piece = self.rng.choice((1, 7, 100, 1 << 20))
                data = data[self.socket.send(data[:piece]) :]

    def end(self) -> None:
        with contextlib.suppress(OSError):
            what = self.rng.random()
            if what < 0.3:
                self.socket.recv(self.rng.choice((1, 20, 1 << 16)))
            if what < 0.5:
                self.socket.shutdown(socket.SHUT_WR)
            if what > 0.8:
                linger = struct.pack("ii", 1, 0)
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()


def holds(live: Live) -> dict[str, int]:
    """What a connection takes, and must give back."""
    return {what: len(os.listdir(f"/proc/{live.pid}/{what}")) for what in ("fd", "task")}


def come_back(live: Live, qmp: Qmp, before: dict[str, int]) -> None:
    """Wait until as much is held as before."""
    deadline = time.monotonic() + PATIENCE_S
    while any(number > before[what] for what, number in holds(live).items()):
        assert time.monotonic() < deadline, (before, holds(live))
        qmp("query-status")
        time.sleep(0.01)


def life(directory: Path, seed: str, items: int, tally: Counter[str]) -> float:
    """One machine, and so many connections; how long its guest has waited at most."""
    rng = random.Random(seed)
    make_image(directory / "own.raw", SIZE)
    make_image(directory / "d.raw", SIZE)
    keys = ("drive=id=own,file=own.raw,format=raw", "drive=id=vda,file=d.raw,format=raw")
    with Live(directory, *keys) as live, live.qmp() as qmp:
        with live.guest("own") as first:
            first.pread(512, 0)
            qmp("query-block")
        quiet = holds(live)
        guest = Guest(live)
        guest.start()
        for number in range(0, items, TOGETHER):
            attacks = [Attack(live, rng) for _ in range(min(TOGETHER, items - number))]
            for attack in attacks:
                kind = rng.choice(list(ITEMS))
                tally[kind] += 1
                attack.begin(ITEMS[kind](rng))
            for attack in attacks:
                attack.end()
            status = live.process.poll()
            assert status is None, f"{number} items, then {status}: {live.log.read_text()[-2000:]}"
        waited_s = guest.end()
        come_back(live, qmp, quiet)
        assert qmp("query-status")["running"]
        qmp.close()
        assert live.stop() == 0
        log = live.log.read_text()
        assert "Traceback" not in log and "bug of ours" not in log, log[-3000:]
    return waited_s


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--items", default=35_000, show_default=True)
@click.option("--seed", default=None, help="That a run has printed, to do it again.")
def main(items: int, seed: str | None) -> None:
    """Make so many connections; end at the first that does more than it should."""
    seed = seed or str(random.randrange(1 << 32))
    tally: Counter[str] = Counter()
    waited_s, number = 0.0, 0
    while tally.total() < items:
        name = f"{seed}/{number}"
        with tempfile.TemporaryDirectory(prefix="faultline-hostile-") as directory:
            left = min(LIFE, items - tally.total())
            waited_s = max(waited_s, life(Path(directory), name, left, tally))
        number += 1
        print(f"life {name}: {tally.total()} connections, a guest waited {waited_s:.3f} s at most")
    print(dict(tally))


if __name__ == "__main__":
    main(prog_name="scripts/endure hostile")
