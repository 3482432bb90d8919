# SPDX-License-Identifier: MIT
"""Real clients: what people have installed, as they call it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest
from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError

from live import TIMEOUT_S, Live, Qmp, make_image
from tree import TREE

MIB = 1 << 20
BLOCK = 4096
PLUGIN = str(TREE / "plugin" / "drive.py")
DEBIAN_FIRST = {**os.environ, "PATH": f"/usr/bin:{os.environ['PATH']}"}
"""nbdsh takes the first python3 on PATH, and libnbd's module is Debian's."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("clients")
    make_image(directory / "d.img", 8 * MIB)
    with Live(
        directory, "drive=id=vda,file=d.img,format=raw,rerror=stop,werror=enospc,discard=unmap"
    ) as live:
        yield live


@pytest.fixture
def qmp(machine: Live) -> Iterator[Qmp]:
    with machine.qmp() as client:
        yield client
        client("x-fault-clear")
        client("cont")


def run(*argv: str, text: str = "", code: int = 0) -> str:
    """Run a client; its output, stderr included."""
    done = subprocess.run(
        argv,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        env=DEBIAN_FIRST,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """8 MiB with data at the beginning and at the end."""
    path = make_image(tmp_path / "source.img", 8 * MIB)
    with path.open("r+b") as file:
        file.write(os.urandom(2 * MIB))
        file.seek(7 * MIB)
        file.write(os.urandom(MIB))
    return path


def test_qemu_img(machine: Live, source: Path) -> None:
    raw = ("-f", "raw")
    uri = machine.uri("vda")
    run("qemu-img", "convert", "-n", *raw, "-O", "raw", str(source), uri)
    assert "identical" in run("qemu-img", "compare", *raw, "-F", "raw", str(source), uri)
    extents = json.loads(run("qemu-img", "map", "--output=json", *raw, uri))
    assert sum(extent["length"] for extent in extents) == 8 * MIB
    holes = [(e["start"], e["length"]) for e in extents if e["zero"]]
    assert holes == [(2 * MIB, 5 * MIB)]
    info = json.loads(run("qemu-img", "info", "--output=json", *raw, uri))
    assert info["virtual-size"] == 8 * MIB
    with source.open("r+b") as file:
        file.write(b"?")
    run("qemu-img", "compare", *raw, "-F", "raw", str(source), uri, code=1)


def test_a_copy_hangs_on_nospace_and_goes_on(machine: Live, qmp: Qmp, source: Path) -> None:
    fault = qmp("x-fault-add", node_name="vda", iotype="write", errno="ENOSPC", after=1)["id"]
    copy = subprocess.Popen(
        ["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(source), machine.uri()]
    )
    qmp.wait_event("STOP")
    assert qmp("query-status")["status"] == "io-error"
    assert qmp("query-block")[0]["io-status"] == "nospace"
    assert copy.poll() is None
    qmp("x-fault-remove", id=fault)
    qmp("cont")
    assert copy.wait(TIMEOUT_S) == 0
    compare = ("qemu-img", "compare", "-f", "raw", "-F", "raw")
    assert "identical" in run(*compare, str(source), machine.uri())


def test_qemu_io(machine: Live) -> None:
    commands = ("write -P 0x42 64k 64k", "flush", "read -P 0x42 64k 64k", "discard 64k 64k")
    out = run(
        *("qemu-io", "-f", "raw", "-d", "unmap"),
        *(part for command in commands for part in ("-c", command)),
        *("-c", "read -P 0 64k 64k", "-c", "write -z 0 4k", "-c", "write -f -P 1 0 512"),
        machine.uri(),
    )
    assert "Pattern verification failed" not in out and "error" not in out.lower()


def test_qemu_io_sees_the_error(machine: Live, qmp: Qmp) -> None:
    qmp("x-fault-add", node_name="vda", iotype="write", errno="EIO", count=1)
    out = run("qemu-io", "-f", "raw", "-c", "write 0 4k", machine.uri(), code=1)
    assert "write failed: Input/output error" in out


def test_nbdcopy_and_nbdinfo(machine: Live, source: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.img"
    run("nbdcopy", str(source), machine.uri())
    run("nbdcopy", machine.uri(), str(back))
    assert back.read_bytes() == source.read_bytes()
    info = json.loads(run("nbdinfo", "--json", "--no-content", "--list", machine.uri()))
    (export,) = info["exports"]
    assert export["export-name"] == "vda" and export["export-size"] == 8 * MIB
    for ability in ("flush", "fua", "trim", "zero", "fast_zero", "multi_conn", "cache"):
        assert export[f"can_{ability}"], ability
    assert not export["is_read_only"]
    assert "hole" in run("nbdinfo", "--map", machine.uri())


def test_nbdsh(machine: Live) -> None:
    out = run(
        *("nbdsh", "-u", machine.uri()),
        *("-c", "h.pwrite(b'nbdsh' * 100, 1000)"),
        *("-c", "print(h.pread(5, 1000).decode())"),
    )
    assert out == "nbdsh\n"


def test_fio_verifies(machine: Live) -> None:
    out = run(
        *("fio", "--name=t", "--ioengine=nbd", f"--uri={machine.uri()}", "--rw=randrw"),
        *("--bs=4k", "--size=8m", "--iodepth=32", "--verify=crc32c", "--minimal"),
        *("--number_ios=4000", "--randseed=7", "--verify_state_save=0"),
    )
    assert "verify" not in out and out.split(";")[4] == "0", "fio's error field"


def test_python_qmp_client(machine: Live, qmp: Qmp) -> None:
    async def session() -> list[str]:
        client = QMPClient("test")
        await client.connect(machine.control)
        with client.listener(("STOP", "RESUME")) as listener:
            await client.execute("stop")
            await client.execute("cont")
            names = [str((await listener.get())["event"]) for _ in range(2)]
        with pytest.raises(QMPError, match="has not been found"):
            await client.execute("no-such-command")
        await client.disconnect()
        return names

    assert asyncio.run(session()) == ["STOP", "RESUME"]


def test_qmp_shell(machine: Live) -> None:
    text = "query-status\nx-fault-add node-name=vda errno=5 id=shell\nx-query-faults\nnonsense\n"
    shell = "from qemu.qmp.qmp_shell import main; main()"
    out = run(sys.executable, "-W", "ignore", "-c", shell, machine.control, text=text)
    assert "'status': 'running'" in out or '"status": "running"' in out
    assert out.count("shell") >= 2
    assert "The command nonsense has not been found" in out
    with machine.qmp() as client:
        client("x-fault-remove", id="shell")


KEYS = ("drive=id=vda,file=d.img,format=raw,werror=stop", "control=qmp.sock")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_image(tmp_path / "d.img", MIB, pattern=4)
    return tmp_path


def use(uri: str, control: Path) -> None:
    """Read, stop, hold, go on: a machine that is all there."""
    guest = nbd.NBD()
    guest.connect_uri(uri)
    assert guest.pread(BLOCK, 0) == b"\4" * BLOCK
    with Qmp.connect(str(control)) as qmp:
        qmp("stop")
        qmp("cont")
        assert [event.name for event in qmp.take_events()] == ["STOP", "RESUME"]
    guest.shutdown()


def test_plain_nbdkit_in_the_foreground(place: Path) -> None:
    socket, pid = place / "n.sock", place / "pid"
    server = subprocess.Popen(
        ["nbdkit", "-f", "-U", str(socket), "-P", str(pid), "python", PLUGIN, *KEYS],
        cwd=place,
        stderr=subprocess.DEVNULL,
    )
    wait_for_file(pid, server)
    use(f"nbd+unix:///?socket={socket}", place / "qmp.sock")
    server.terminate()
    assert server.wait(TIMEOUT_S) == 0
    assert not (place / "qmp.sock").exists()


def wait_for_file(path: Path, server: subprocess.Popen[bytes]) -> None:
    while not (path.exists() and path.read_text()):
        assert server.poll() is None


def test_plain_nbdkit_forked(place: Path) -> None:
    """It leaves its directory and its terminal; relative names mean what they meant before."""
    socket, pid = place / "n.sock", place / "pid"
    run_in = ["nbdkit", "-U", str(socket), "-P", str(pid), "python", PLUGIN, *KEYS]
    subprocess.run(run_in, cwd=place, check=True, timeout=TIMEOUT_S)
    number = int(pid.read_text())
    use(f"nbd+unix:///?socket={socket}", place / "qmp.sock")
    handle = os.pidfd_open(number)
    signal.pidfd_send_signal(handle, signal.SIGTERM)
    os.close(handle)
    while os.path.exists(f"/proc/{number}") and not zombie(number):
        pass
    assert not (place / "qmp.sock").exists()


def zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_stdio(place: Path) -> None:
    """The client's own server, which ends with it."""
    guest = nbd.NBD()
    control = f"control={place / 'qmp.sock'}"
    drive = f"drive=id=vda,file={place / 'd.img'},format=raw"
    guest.connect_command(["nbdkit", "-s", "--exit-with-parent", "python", PLUGIN, drive, control])
    assert guest.pread(BLOCK, 0) == b"\4" * BLOCK
    with Qmp.connect(str(place / "qmp.sock")) as qmp:
        assert qmp("query-status")["running"]
        guest.shutdown()
        list(qmp.until_the_end())


@pytest.mark.parametrize("single", [["-s"], []], ids=["one client", "many"])
def test_without_workers(place: Path, single: list[str]) -> None:
    """With `-t 1` the requests come on threads that nbdkit does not wait for at its end."""
    keys = [f"drive=id=vda,file={place / 'd.img'},format=raw", f"control={place / 'qmp.sock'}"]
    listen = single or ["-f", "-U", str(place / "nbd.sock"), "-P", str(place / "pid")]
    argv = ["nbdkit", *listen, "-t", "1", "python", str(PLUGIN), *keys]
    ours, theirs = socket.socketpair()
    far = theirs.fileno()
    with subprocess.Popen(argv, stdin=far, stdout=far if single else None) as server:
        theirs.close()
        while not single and not (place / "pid").exists():
            assert server.poll() is None
        for _ in range(1 if single else 20):
            guest = nbd.NBD()
            if single:
                guest.connect_socket(ours.detach())
            else:
                guest.connect_unix(str(place / "nbd.sock"))
            guest.pwrite(b"\5" * BLOCK, 0)
            assert guest.pread(BLOCK, 0) == b"\5" * BLOCK
            guest.flush()
            with Qmp.connect(str(place / "qmp.sock")) as qmp:
                operations = qmp("query-blockstats")[0]["stats"]["rd_operations"]
            guest.shutdown()
        assert operations == (1 if single else 20)
        if not single:
            server.terminate()
        assert server.wait(TIMEOUT_S) == 0
    ours.close()


def test_socket_activation(place: Path) -> None:
    guest = nbd.NBD()
    control = f"control={place / 'qmp.sock'}"
    drive = f"drive=id=vda,file={place / 'd.img'},format=raw"
    guest.connect_systemd_socket_activation(["nbdkit", "python", PLUGIN, drive, control])
    assert guest.pread(BLOCK, 0) == b"\4" * BLOCK
    with Qmp.connect(str(place / "qmp.sock")) as qmp:
        assert qmp("query-status")["running"]
    guest.shutdown()


def test_captive(place: Path) -> None:
    out = subprocess.run(
        ["nbdkit", "-U", "-", "python", PLUGIN, *KEYS, "--run", 'nbdinfo --size "$uri"'],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (out.returncode, out.stdout) == (0, f"{MIB}\n"), out.stderr


def test_readonly_server(place: Path) -> None:
    out = subprocess.run(
        ["nbdkit", "-r", "-U", "-", "python", PLUGIN, *KEYS]
        # Without file(1) there is no content, and nbdinfo 1.14 prints what is in its memory.
        + ["--run", 'nbdinfo --json --no-content "$uri"'],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert json.loads(out.stdout)["exports"][0]["is_read_only"], out.stderr


def test_memory_of_a_client_that_does_not_read(tmp_path: Path) -> None:
    """As many of its replies wait as its connection has threads; the others are not begun."""
    drive = "drive=id=vda,driver=null-co,size=1G,read-zeroes=on"
    largest, threads = 32 * MIB, 2
    with Live(tmp_path, drive, options=("--threads", str(threads))) as live:
        before = resident(live.pid)
        with live.guest() as guest, live.qmp() as qmp:
            for number in range(16):
                guest.aio_pread(bytearray(largest), number * largest)

            def read() -> int:
                return int(qmp("query-blockstats")[0]["stats"]["rd_operations"])

            qmp.wait_for(lambda: read() == threads)
            # What was free before may have gone back to the system meanwhile.
            more = resident(live.pid) - before
            assert threads * largest - MIB < more < (threads + 1) * largest
            assert read() == threads


def resident(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
