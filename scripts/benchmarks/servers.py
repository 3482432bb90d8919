# SPDX-License-Identifier: MIT
"""The servers that are measured: those of this tree, and of its peers.

Each function is a context manager: it starts a server, yields a `Server` once
that accepts connections, and ends the process after the body.  RuntimeError is
raised, with the server's log, if the server does not start.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blockcore.cli.embedding import Nbdkit, find_nbdkit
from blockcore.cli.listen import UnixSocket
from blockcore.cli.nbdkit_command import find_plugin, serve_command
from blockcore.cli.plugin_packages import plugin_packages

START_S = 30.0
"""How long a server may take to accept connections, and to end, in seconds."""


STORAGE_DAEMON = "qemu-storage-daemon"

DYING_S = 1.0
"""How long a server that has hung up may take to be gone, in seconds."""


class Crashed(RuntimeError):
    """A server was ended by a signal that nobody has sent; `program` is what it ran."""

    def __init__(self, program: str, number: int) -> None:
        super().__init__(f"{program} was ended by {signal.Signals(number).name}")
        self.program = program


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `nbd` and `control` are the paths of its sockets."""

    pid: int
    nbd: Path
    control: Path

    def uri(self, export: str = "") -> str:
        return f"nbd+unix:///{export}?socket={self.nbd}"

    def rss_kib(self) -> float:
        """Return the resident memory of the process, in KiB.

        By smaps_rollup: statm lags behind by some pages per thread.
        """
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        resident = next(line for line in rollup.splitlines() if line.startswith("Rss:"))
        return float(resident.split()[1])


@functools.cache
def _embedding() -> tuple[Nbdkit, list[Path]]:
    """Return the nbdkit that `serve` finds, and where the packages are that the plugin imports."""
    nbdkit = find_nbdkit(os.environ)
    return nbdkit, plugin_packages(nbdkit, os.environ)


@contextlib.contextmanager
def faultline(directory: Path, *keys: str, threads: int | None = None) -> Iterator[Server]:
    """Run a machine of this tree; `threads` is the number of workers per connection.

    It is what `faultline serve` becomes: what finds that out takes half of a start, which
    is measured elsewhere.
    """
    with _place(directory) as place:
        nbdkit, packages = _embedding()
        listen = UnixSocket(place / "nbd")
        listen.claim()
        command, environ = serve_command(
            keys,
            nbdkit=nbdkit,
            plugin=find_plugin(),
            packages=packages,
            listen=listen,
            control=place / "qmp",
            threads=threads,
            log_format="json",
            runtime_dir=None,
            environ=os.environ,
        )
        with _process(command, place, environ) as process:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(_why(command, place))
            yield Server(process.pid, place / "nbd", place / "qmp")


@contextlib.contextmanager
def nbdkit_file(
    directory: Path, image: Path, delay_ms: int | None = None
) -> Iterator[Server]:
    """Run nbdkit's own `file` plugin under its error filter: the best that C can do.

    With `delay_ms` the filter is the one that delays reads.
    """
    delays = delay_ms is not None
    with _place(directory) as place:
        command = ["nbdkit", "-f", "-U", str(place / "nbd")]
        command += ["--filter=delay" if delays else "--filter=error", "file", str(image)]
        command += [f"delay-read={delay_ms}ms" if delays else "error-rate=0"]
        with _listening(command, place, place / "nbd") as server:
            yield server


@contextlib.contextmanager
def qemu_nbd(directory: Path, image: Path, config: Path | None = None) -> Iterator[Server]:
    """Run qemu-nbd with blkdebug over a raw file: QEMU's own way to a failing drive."""
    options = f"driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={image}"
    if config is not None:
        options += f",file.config={config}"
    with _place(directory) as place:
        command = ["qemu-nbd", "-k", str(place / "nbd"), "--persistent", "--shared=64"]
        command += ["--cache=writeback", "--aio=threads", "--image-opts", options]
        with _listening(command, place, place / "nbd") as server:
            yield server


@contextlib.contextmanager
def qemu_system(directory: Path) -> Iterator[Server]:
    """Run a QEMU whose machine has nothing in it, for its QMP monitor."""
    with _place(directory) as place:
        command = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none"]
        command += ["-qmp", f"unix:{place}/qmp,server=on,wait=off"]
        with _listening(command, place, place / "qmp") as server:
            yield server


@contextlib.contextmanager
def storage_daemon(
    directory: Path, path: Path | None = None, layout: str = "qcow2"
) -> Iterator[Server]:
    """Run qemu-storage-daemon with its QMP monitor, and the image at `path`, if given, as vda."""
    with _place(directory) as place:
        command = [STORAGE_DAEMON, "--chardev"]
        command += [f"socket,id=c,path={place}/qmp,server=on,wait=off", "--monitor", "chardev=c"]
        command += ["--nbd-server", f"addr.type=unix,addr.path={place}/nbd,max-connections=0"]
        if path is not None:
            image = f"driver={layout},node-name=vda,file.driver=file,file.filename={path}"
            command += ["--blockdev", image]
            command += ["--export", "nbd,id=e,node-name=vda,name=,writable=on"]
        with _listening(command, place, place / "nbd") as server:
            yield server


@contextlib.contextmanager
def _place(directory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=directory) as place:
        yield Path(place)


@contextlib.contextmanager
def _process(
    command: Sequence[str], place: Path, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        yield process
    except Exception as error:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(DYING_S) < 0:
                raise Crashed(command[0], -process.returncode) from error
        raise
    finally:
        process.terminate()
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def _listening(command: Sequence[str], place: Path, path: Path) -> Iterator[Server]:
    with _process(command, place) as process:
        deadline = time.monotonic() + START_S
        while not _accepts(path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(_why(command, place))
            time.sleep(0.01)
        yield Server(process.pid, place / "nbd", place / "qmp")


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _why(command: Sequence[str], place: Path) -> str:
    return f"{command[0]} did not start: {(place / 'log').read_text(errors='replace')}"


def versions() -> dict[str, str]:
    """Return the version that each peer and fio print."""
    commands = {
        "nbdkit": ["nbdkit", "--version"],
        "qemu": ["qemu-nbd", "--version"],
        "fio": ["fio", "--version"],
    }
    return {
        name: subprocess.run(command, capture_output=True, text=True, check=True)
        .stdout.partition("\n")[0]
        .strip()
        for name, command in commands.items()
    }
