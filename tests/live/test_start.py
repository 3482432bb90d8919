# SPDX-License-Identifier: MIT
"""Starts that fail, or that are told to end, and machines whose parents are gone.

Nothing is left behind, one line says what is wrong, and nothing ends a machine
but what its user asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbd
import pytest

from blockcore.process.server import Server
from blockcore.qapi.names import QmpError
from live import FAULTLINE, TIMEOUT_S, Bare, Flight, Live, Qmp, make_image
from tree import TREE

SERVE = ["env", "--default-signal", *FAULTLINE, "serve"]
"""With no signal ignored, as SIGINT and SIGQUIT are in what a script has in the background."""

MIB = 1 << 20
DRIVE = "drive=id=vda,driver=null-co,size=1M"
NBDKIT = shutil.which("nbdkit") or "nbdkit"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where everything private is made; what else a test needs is beside it."""
    place = tmp_path / "private"
    place.mkdir()
    return place


def environ(place: Path, **more: str) -> dict[str, str]:
    private = {"TMPDIR": str(place), "XDG_RUNTIME_DIR": str(place), "PYTHONPATH": str(TREE)}
    return {**os.environ, **private, **more}


def serve(place: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SERVE, *words],
        env=environ(place, **more),
        cwd=place.parent,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def wrapped_nbdkit(place: Path, script: str) -> dict[str, str]:
    """A PATH whose nbdkit does something first, when it is the machine's."""
    program = place.parent / "bin" / "nbdkit"
    program.parent.mkdir()
    dumps = f'case "$*" in *--dump-plugin*) exec {NBDKIT} "$@";; esac'
    program.write_text(f'#!/bin/sh\n{dumps}\n{script}\nexec {NBDKIT} "$@"\n')
    program.chmod(0o755)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def left(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


ENDING = [
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1),
    *(signal.SIGUSR2, signal.SIGALRM, signal.SIGXCPU, signal.SIGRTMIN),
]
EACH_SIGNAL = pytest.mark.parametrize("how", ENDING, ids=lambda how: how.name)


def test_an_interrupt_while_the_command_is_imported(place: Path) -> None:
    """No line of what Python was at."""
    imported = place.parent / "imported"
    imported.mkdir()
    (imported / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    path = os.pathsep.join((str(imported), str(TREE)))
    done = serve(place, PYTHONPATH=path)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_a_signal_at_any_moment_of_the_start(how: int, place: Path) -> None:
    """As `scripts/run` starts it: Python itself would tell where an interrupt has met it.

    The moments of the one signal are between those of the other: together, each 10 ms.
    """
    for moment_ms in range(0 if how == signal.SIGINT else 10, 400, 20):
        with subprocess.Popen(
            ["env", "--block-signal=INT", *FAULTLINE, "serve"],
            env=environ(place),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(how, signal.SIG_DFL),
        ) as process:
            time.sleep(moment_ms / 1000)
            process.send_signal(how)
            ready, log = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == (0 if ready else -how), (moment_ms, log)
        assert all(line.startswith(b"{") for line in log.splitlines()), (moment_ms, log)
        assert left(place) == [], moment_ms


def test_an_interrupt_while_it_is_set_up(tmp_path: Path) -> None:
    """Nothing is served after it, even if what runs by then goes on."""
    scripts, program = tmp_path / "scripts", tmp_path / ".venv" / "bin" / "faultline"
    for file in (scripts / "setup", program):
        file.parent.mkdir(parents=True)
        file.write_text("#!/bin/sh\ntrap : INT\necho; read -r _\n")
        file.chmod(0o755)
    program.write_text("#!/bin/sh\necho serves\n")
    shutil.copy(TREE / "scripts" / "run", scripts)
    with subprocess.Popen(
        ["env", "--default-signal", str(scripts / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate("\n", TIMEOUT_S)[0] == ""
    assert process.returncode == -signal.SIGINT


@EACH_SIGNAL
def test_a_signal_when_the_machine_is_about_to_begin(how: int, place: Path) -> None:
    """The private directory is there, and the plugin is not yet."""
    path = wrapped_nbdkit(place, f"kill -{int(how)} $$")
    done = serve(place, **path)
    assert (done.returncode, done.stdout, done.stderr) == (-how, "", "")
    assert left(place) == []


@EACH_SIGNAL
def test_a_signal_while_a_server_does_not_answer(how: int, place: Path) -> None:
    """Everything is there but the drive."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(place.parent / "silent"))
        silent.listen()
        silent.settimeout(TIMEOUT_S)
        far = "drive=id=far,driver=nbd,server.type=unix,server.path=silent"
        with subprocess.Popen(
            [*SERVE, far],
            env=environ(place),
            cwd=place.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(how)
                assert process.communicate(timeout=TIMEOUT_S) == (b"", b"")
        assert process.returncode == -how
    assert left(place) == []


@EACH_SIGNAL
def test_a_signal_while_it_serves(how: int, place: Path) -> None:
    """A clean end, and the log names what it was and who sent it."""
    with started(place) as process:
        process.send_signal(how)
        _, log = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert left(place) == []
    (told,) = [line for line in map(json.loads, log.splitlines()) if "sender" in line]
    assert told["reason"] == getattr(how, "name", None)
    assert told["sender"] == os.getpid()


@contextlib.contextmanager
def started(place: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*SERVE, *words],
        env=environ(place),
        cwd=place.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV], ids=lambda how: how.name)
def test_what_a_killed_machine_leaves_is_gone_after_the_next_start(how: int, place: Path) -> None:
    """What others have, who live or whose it is not known to be, stays."""
    (place / "faultline-other").mkdir()
    with started(place) as living:
        before = left(place)
        with started(place) as killed:
            killed.send_signal(how)
            killed.communicate(timeout=TIMEOUT_S)
        assert len(left(place)) == len(before) + 1
        with started(place) as last:
            assert len(left(place)) == len(before) + 1
            assert set(before) < set(left(place))
            last.terminate()
            last.communicate(timeout=TIMEOUT_S)
        assert left(place) == before
        living.terminate()
        living.communicate(timeout=TIMEOUT_S)
    assert left(place) == ["faultline-other"]


def test_a_write_beyond_the_limit_of_files_is_an_error(tmp_path: Path) -> None:
    """SIGXFSZ would end the machine, for a guest's request."""
    make_image(tmp_path / "a.img", 4 * MIB)
    with Live(tmp_path, "drive=id=vda,file=a.img,format=raw,werror=stop") as live:
        subprocess.run(["prlimit", f"--pid={live.pid}", f"--fsize={MIB}"], check=True)
        with live.qmp() as qmp, live.guest() as guest:
            cookie = guest.aio_pwrite(b"x" * 512, 2 * MIB)
            guest.poll(0)
            assert "too large" in qmp.wait_event("BLOCK_IO_ERROR")["reason"]
            assert not guest.aio_command_completed(cookie)
        assert live.stop() == 0


FAILURES: dict[str, tuple[str, str]] = {
    "full stdout": ("exec >/dev/full", "the ready line, on stdout: No space left on device"),
    "closed stdout": ("exec >&-", "standard output is closed"),
    "sockets of systemd": ("export LISTEN_FDS=1 LISTEN_PID=$$", "descriptor 3 of LISTEN_FDS: "),
    "few descriptors": ("ulimit -n 63", "a machine needs 64 descriptors (ulimit -n)"),
    "little address space": ("ulimit -v 700000", "of address space (ulimit -v)"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_one_line_and_nothing_left(how: str, place: Path) -> None:
    script, text = FAILURES[how]
    done = subprocess.run(
        ["sh", "-c", f'{script}; exec "$@"', "sh", *FAULTLINE, "serve"],
        env=environ(place),
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1 and lines[0].startswith("faultline: ") and text in lines[0]
    assert left(place) == []


@pytest.mark.parametrize("key", ["record=r.jsonl", "drive=id=vdb,size=1M"])
def test_a_file_without_room(key: str, place: Path, tmp_path: Path) -> None:
    """Neither a disk that cannot have its size is served, nor a recording without a beginning.

    What else is written, such as the user's cache, is not missed.
    """
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *FAULTLINE, "serve", DRIVE, key],
        cwd=tmp_path,
        env=environ(place),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"faultline: {key}: File too large\n"
    assert left(place) == []


@pytest.mark.parametrize("number", range(7, 20))
def test_nbdkit_with_few_descriptors(number: int, tmp_path: Path) -> None:
    """It serves, or it says what is missing; it does not begin and hang."""
    plugin = str(TREE / "plugin/drive.py")
    argv = ["nbdkit", "-f", "-U", "n", "python", plugin, DRIVE, "control=q"]
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n {number}; exec "$@"', "sh", *argv],
        cwd=tmp_path,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.search(rb"cannot serve: \d+ more descriptors are needed", line)
    assert left(tmp_path) == []


@pytest.mark.slow
def test_nbdkit_with_little_address_space(tmp_path: Path) -> None:
    """It serves all that one connection may have at once, or says that it cannot.

    Down to where nbdkit itself, or Python, cannot be loaded.  What is missing is the stacks of
    two threads more at each of the first steps, 8 MiB each; the less there is, the more kinds
    of things can be missing, and the smaller are the steps.
    """
    plugin = str(TREE / "plugin/drive.py")
    argv = ["nbdkit", "-f", "-U", "n", "python", plugin, DRIVE, "control=q"]
    told = set()
    coarse, finer = range(640_000, 300_000, -20_000), range(300_000, 240_000, -5_000)
    for limit_kib in (*coarse, *finer, *range(240_000, 0, -2_500)):
        (tmp_path / "n").unlink(missing_ok=True)
        with subprocess.Popen(
            ["sh", "-c", f'ulimit -v {limit_kib}; exec "$@"', "sh", *argv],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            if '"serving"' in line:
                hold_requests(tmp_path, 16)
                process.terminate()
            status, rest = process.wait(TIMEOUT_S), process.stderr.read()
        if "cannot s" not in line:
            assert (status == 0) == ('"serving"' in line), line
            if status != 0:
                break
            continue
        assert status == 1
        assert "Traceback" not in rest and "q" not in left(tmp_path), rest
        told.add("cannot serve" if "cannot serve: " in line else "cannot start")
    assert told == {"cannot serve", "cannot start"}


def hold_requests(directory: Path, number: int) -> None:
    """Have so many held, and then answered."""
    with Qmp.connect(str(directory / "q")) as qmp:
        qmp("stop")
        guest, flight = nbd.NBD(), Flight()
        guest.connect_unix(str(directory / "n"))
        for n in range(number):
            flight.read(guest, n * 512, 512)
        flight.arrived(qmp)
        qmp("cont")
        assert flight.land() == ["OK"] * number
        guest.shutdown()


def test_a_thread_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    server = Server({}, str(tmp_path))
    with pytest.raises(QmpError, match="^cannot serve: can't start new thread$"):
        with server._reported("cannot serve"):
            raise RuntimeError("can't start new thread")


def test_a_socket_that_nbdkit_cannot_bind(place: Path) -> None:
    """What is somebody else's by then stays."""
    path = wrapped_nbdkit(place, 'for last; do :; done; : >"${last#control=}.nbd"; set -- "$@"')
    nbd = str(place / "q.nbd")
    done = serve(place, "--nbd", nbd, "--control", str(place / "q"), **path)
    assert (done.returncode, done.stdout) == (1, "")
    assert left(place) == ["q.nbd"]


def test_an_unread_ready_line(place: Path) -> None:
    """A pipe that is full already: it serves all the same, and ends in time."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(65536))
    os.set_blocking(writer, True)
    control = place / "q"
    with subprocess.Popen(
        [*SERVE, "--control", str(control)],
        env=environ(place),
        stdout=writer,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert b'"serving"' in process.stderr.readline()
        process.terminate()
        begun = time.monotonic()
        assert process.wait(TIMEOUT_S) == 0
        assert time.monotonic() - begun < 2
    os.close(reader)
    os.close(writer)
    assert left(place) == []


def in_a_thread(work: Callable[[], Live]) -> Live:
    """What `work` has started, after the end of the thread on which it did."""
    found: list[Live] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


KINDS = pytest.mark.parametrize("kind", [Live, Bare], ids=["serve", "nbdkit"])


@KINDS
@pytest.mark.parametrize("told", [(), ("--exit-with-parent",)], ids=["", "with the process"])
def test_the_thread_that_started_it_ends(
    kind: type[Live], told: tuple[str, ...], tmp_path: Path
) -> None:
    """Not even who is to end with the process ends with a thread of it."""
    with in_a_thread(lambda: kind(tmp_path, DRIVE, options=told)) as live:
        with live.qmp() as qmp, live.guest() as guest:
            for _ in range(100):
                assert qmp("query-status")["running"]
                guest.pread(512, 0)
        assert live.process.poll() is None
        assert live.stop() == 0


@KINDS
@pytest.mark.parametrize("told", [(), ("--exit-with-parent",)], ids=["", "with the process"])
def test_the_shell_that_started_it_ends(
    kind: type[Live], told: tuple[str, ...], tmp_path: Path
) -> None:
    """It stays, unless it has been told to end with it; then that is what the log says."""
    log, control = tmp_path / "log", str(tmp_path / "q")
    if kind is Live:
        argv = [*SERVE, "--nbd", "n", "--control", control, *told, DRIVE]
    else:
        plugin = str(TREE / "plugin/drive.py")
        argv = ["nbdkit", "-f", "-U", "n", *told, "python", plugin, DRIVE, f"control={control}"]
    with log.open("wb") as stderr, subprocess.Popen(
        ["sh", "-c", '"$@" >/dev/null & echo $!; read -r _', "sh", *argv],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TREE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
    ) as shell:
        assert shell.stdin is not None and shell.stdout is not None
        machine = os.pidfd_open(int(shell.stdout.readline()))
        while '"serving"' not in log.read_text():
            assert shell.poll() is None
    assert shell.returncode is not None
    if not told:
        with socket.socket(socket.AF_UNIX) as qmp:
            qmp.connect(control)
            qmp.settimeout(TIMEOUT_S)
            assert qmp.recv(8)
        signal.pidfd_send_signal(machine, signal.SIGTERM)
    ended = select.poll()
    ended.register(machine, select.POLLIN)
    assert ended.poll(TIMEOUT_S * 1000), "it ends"
    assert '"SHUTDOWN"' in log.read_text()
    reason = "the parent process has ended" if told else "SIGTERM"
    assert f'"reason": "{reason}"' in log.read_text()
    os.close(machine)


def test_a_shell_that_ends_while_the_machine_begins(place: Path) -> None:
    """nbdkit has asked for a signal by then, and nobody could tell it not to."""
    control = place / "q"
    path = wrapped_nbdkit(
        place,
        'if [ -z "$ASKED" ]; then export ASKED=1 PARENT=$PPID; '
        'exec setpriv --pdeathsig TERM -- "$0" "$@"; fi; '
        'echo >"$BEGUN"; while [ -d "/proc/$PARENT" ]; do :; done',
    )
    begun = place.parent / "begun"
    log = place.parent / "log"
    with log.open("wb") as stderr:
        subprocess.run(
            ["sh", "-c", '"$@" >/dev/null & while [ ! -e "$BEGUN" ]; do :; done', "sh"]
            + [*SERVE, "--control", str(control)],
            env=environ(place, BEGUN=str(begun), **path),
            stderr=stderr,
            timeout=TIMEOUT_S,
        )
    deadline = time.monotonic() + TIMEOUT_S
    while '"serving"' not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
    with Qmp.connect(control) as qmp:
        qmp("quit")
        list(qmp.until_the_end())
    while left(place) or '"reason": "quit"' not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()


@pytest.mark.parametrize("how", ["signal", "quit", "captive"])
def test_a_clean_end_is_no_error(how: str, tmp_path: Path) -> None:
    """Some look for that word in a server's log."""
    if how == "captive":
        plugin = str(TREE / "plugin/drive.py")
        done = subprocess.run(
            ["nbdkit", "-U", "-", "python", plugin, DRIVE, "--run", 'nbdinfo --size "$uri"'],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        log = done.stderr
        assert done.returncode == 0
    else:
        with Bare(tmp_path, DRIVE) as live:
            with live.guest() as guest:
                guest.pread(512, 0)
            if how == "quit":
                with live.qmp() as qmp:
                    qmp("quit")
                assert live.process.wait(TIMEOUT_S) == 0
            else:
                assert live.stop() == 0
        log = live.log.read_text()
    assert '"SHUTDOWN"' in log and "error" not in log
