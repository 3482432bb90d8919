# SPDX-License-Identifier: MIT
"""The control socket as clients find it: many at once, rude ones, dying ones."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from blockcore.commands.table import table
from blockcore.qmp.session import Session
from faultline import MachineEnded
from live import FAULTLINE, Flight, Live, Qmp, make_image
from tree import TREE
from wire import Wire

MIB = 1 << 20
BLOCK = 4096

IGNORING = "drive=id=vda,file=a.img,format=raw,rerror=ignore,werror=ignore"
WORDY = "w" * 1000
WORDY_DRIVE = f"drive=id={WORDY},driver=null-co,size={MIB},rerror=ignore"
"""Its events are long: fewer of them fill a queue."""
SLOW = "drive=id=slow,driver=null-co,size=1048576,latency-ns=1000000000"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("control")
    make_image(directory / "a.img", MIB)
    with Live(directory, IGNORING, WORDY_DRIVE, SLOW, options=("--threads", "32")) as live:
        yield live


@pytest.fixture
def qmp(machine: Live) -> Iterator[Qmp]:
    with machine.qmp() as client:
        yield client
        client("x-fault-clear")
        client("cont")


@pytest.fixture
def wire(machine: Live) -> Iterator[Wire]:
    with machine.wire() as client:
        yield client


def resident(machine: Live) -> int:
    """Bytes of memory in use."""
    pages = Path(f"/proc/{machine.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def make_events(guest: nbd.NBD, number: int) -> None:
    """Fail (and have ignored) that many reads, up to 32 of them at a time."""
    flight = Flight()
    for _ in range(number):
        while len(flight.pending) >= 32:
            flight.poll(1)
        flight.read(guest, 0, 512)
    flight.land()


def test_all_clients_see_all_events_in_one_order(machine: Live, qmp: Qmp) -> None:
    """2000 failing reads on 4 connections, a stop and a cont between: nothing lost or moved.

    Each connection has some 15 times as many as are in flight at once.
    """
    qmp("x-fault-add", node_name="vda", iotype="read", errno="EIO")
    clients = [machine.qmp() for _ in range(5)]

    def guest() -> None:
        with machine.guest("vda") as handle:
            make_events(handle, 500)

    def steer() -> None:
        with machine.qmp() as control:
            for _ in range(20):
                control("stop")
                control("cont")

    workers = [threading.Thread(target=guest) for _ in range(4)]
    workers.append(threading.Thread(target=steer))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seen = []
    for client in clients:
        with client:
            client("query-status")
            seen.append(client.take_events())
    kinds = [event.name for event in seen[0]]
    assert kinds.count("BLOCK_IO_ERROR") == 2000 == qmp("x-query-faults")[0]["hits"]
    assert [kind for kind in kinds if kind != "BLOCK_IO_ERROR"] == ["STOP", "RESUME"] * 20
    for other in seen[1:]:
        assert other == seen[0]
    times = [event.time for event in seen[0]]
    assert times == sorted(times)


def test_an_event_of_another_thread_is_not_lost_while_sending() -> None:
    """The main loop empties the queue that any thread fills."""
    session = Session(table.commands.get, {})
    session.receive_data(b'{"execute":"qmp_capabilities"}')
    assert session.next_command() is None
    session.take_message()
    events = [{"event": str(n)} for n in range(50_000)]
    producer = threading.Thread(target=lambda: [*map(session.send_event, events)])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        producer.start()
        seen: list[Any] = []
        while producer.is_alive():
            seen += iter(session.take_message, None)
        seen += iter(session.take_message, None)
    finally:
        sys.setswitchinterval(interval)
        producer.join()
    assert seen == events


def connect(machine: Live) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(machine.control)
    return client


def sink(client: socket.socket) -> int:
    """Read until the server hangs up; how much there was."""
    total = 0
    try:
        while data := client.recv(1 << 20):
            total += len(data)
    except ConnectionResetError:
        pass
    return total


COSTLY = ["query-qmp-schema", "query-named-block-nodes", "query-status", "nonsense"]


@pytest.mark.parametrize("command", COSTLY)
def test_client_that_reads_no_replies_waits(command: str, machine: Live, qmp: Qmp) -> None:
    """Its commands are not run, nor even read, before it has read what was said."""
    with contextlib.ExitStack() as stack:
        rude = stack.enter_context(connect(machine))
        guest = stack.enter_context(machine.guest("vda"))
        # What the first answer and the guest's first request take is there afterwards.
        with machine.wire() as polite:
            polite.command(command)
            polite.receive()
        guest.pread(512, 0)
        before = resident(machine)
        rude.sendall(b'{"execute":"qmp_capabilities"}')
        rude.setblocking(False)
        asked = b'{"execute":"%s"}' % command.encode()
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 64 * MIB:
                sent += rude.send(asked * 1000)
        assert sent < 8 * MIB
        for _ in range(20):
            guest.pread(512, 0)
            qmp("query-status")
        assert resident(machine) < before + 8 * MIB
        rude.settimeout(60)
        lines = rude.makefile("rb")
        for _ in range(2):
            lines.readline()
        for _ in range(min(sent // len(asked), 50)):
            assert json.loads(lines.readline()).keys() & {"return", "error"}
        lines.close()
    assert resident(machine) < before + 16 * MIB


HOGS = {
    "commands": b'{"execute":"query-status"}' * 5000,
    "coroutines": b'{"execute":"query-block"}' * 2000,
    "large replies": b'{"execute":"query-qmp-schema"}' * 50,
    "errors": b"\0" * 5000,
}


@pytest.mark.parametrize("data", HOGS.values(), ids=HOGS)
def test_clients_have_their_turns(data: bytes, machine: Live, qmp: Qmp) -> None:
    """An event that another client makes comes between the answers of one that asks a lot."""
    with machine.wire() as hog:
        hog.send(data)
        hog.receive()
        qmp("stop")
        qmp("cont")
        answers = len(data) if data[0] == 0 else data.count(b"execute")
        messages = [hog.receive() for _ in range(answers - 1 + 2)]
    kinds = [message.get("event") for message in messages]
    assert [kind for kind in kinds if kind] == ["STOP", "RESUME"]
    assert kinds[-1] is None


def test_client_that_reads_no_events_is_disconnected(machine: Live, qmp: Qmp) -> None:
    """Its 16 MiB are full after some thousand long events; everybody else gets every one."""
    before = resident(machine)
    with connect(machine) as rude, machine.guest(WORDY) as guest:
        rude.sendall(b'{"execute":"qmp_capabilities"}')
        qmp("x-fault-add", node_name=WORDY, iotype="read", errno="EIO")
        made = 0
        while not gone(rude):
            make_events(guest, 1000)
            made += 1000
            qmp("query-status")
            assert len(qmp.take_events()) == 1000
            assert made < 100_000, "it may be silent for ever"
        assert sink(rude) > 0
    assert resident(machine) < before + 96 * MIB


def gone(client: socket.socket) -> bool:
    """Whether the server has hung up, without reading anything."""
    poller = select.poll()
    poller.register(client, select.POLLRDHUP)
    return bool(poller.poll(0))


def test_a_client_cannot_fill_the_memory_with_commands(machine: Live, qmp: Qmp) -> None:
    """No input is read while a command runs, as in QEMU: the client has to wait."""
    with machine.guest("slow") as guest, connect(machine) as eager:
        eager.sendall(b'{"execute":"qmp_capabilities"}')
        flight = Flight()
        flight.write(guest, 0, b"x" * 512)
        flight.arrived(qmp)
        eager.sendall(b'{"execute":"stop"}')
        qmp.wait_event("STOP")
        eager.setblocking(False)
        accepted = 0
        try:
            while accepted < 64 * MIB:
                accepted += eager.send(b'{"execute":"query-status"}\n' * 1000)
        except BlockingIOError:
            pass
        assert accepted < 8 * MIB
        flight.land()
        eager.settimeout(60)
        lines = eager.makefile("rb")
        replies = [json.loads(lines.readline()) for _ in range(5)]
        lines.close()
    assert [next(iter(reply)) for reply in replies[:2]] == ["QMP", "return"]
    assert any(reply.get("return", {}).get("status") == "paused" for reply in replies)


def test_socket_is_private(machine: Live) -> None:
    status = os.stat(machine.control)
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600


def test_a_live_socket_is_refused(machine: Live, tmp_path: Path) -> None:
    code, stderr = start_elsewhere(tmp_path, machine.control)
    assert code == 1
    assert stderr == (
        f"faultline: control={machine.control}: "
        f"Failed to bind socket to {machine.control}: Address already in use\n"
    )
    with machine.qmp() as client:
        assert client("query-status")["running"]


def start_elsewhere(directory: Path, control: str) -> tuple[int, str]:
    """Exit status and stderr of a machine that is not expected to start."""
    done = subprocess.run(
        [*FAULTLINE, "serve", "--nbd", str(directory / "n"), "--control", control]
        + ["drive=id=d,driver=null-co"],
        env={**os.environ, "PYTHONPATH": str(TREE)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    assert not (directory / "n").exists()
    return done.returncode, done.stderr


def test_a_file_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    code, stderr = start_elsewhere(tmp_path, str(path))
    assert code == 1
    assert stderr.count("\n") == 1 and f"Failed to bind socket to {path}" in stderr
    assert path.read_text() == "data"


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 108)
    code, stderr = start_elsewhere(tmp_path, str(path))
    assert code == 1
    assert stderr.count("\n") == 1 and "Failed to bind socket" in stderr


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "qmp.sock"))
    with Live(tmp_path, "drive=id=d,driver=null-co") as live, live.qmp() as qmp:
        assert qmp("query-status")["running"]
        assert stat.S_IMODE(os.stat(live.control).st_mode) == 0o600


GENERIC = "GenericError"
MALFORMED: dict[bytes, tuple[str, str]] = {
    b"[1,2]": (GENERIC, "QMP input must be a JSON object"),
    b"42 ": (GENERIC, "QMP input must be a JSON object"),
    b'"str"': (GENERIC, "QMP input must be a JSON object"),
    b'{"execute": }': (GENERIC, "JSON parse error, expecting value"),
    b"abc ": (GENERIC, "JSON parse error, invalid keyword 'abc'"),
    b'{"a":1,"a":2}': (GENERIC, "JSON parse error, duplicate key"),
    b'"\\z"': (GENERIC, "JSON parse error, invalid escape sequence in string"),
    b"{}": (GENERIC, "QMP input lacks member 'execute'"),
    b'{"execute":1}': (GENERIC, "QMP input member 'execute' must be a string"),
    b'{"execute":"stop","arguments":[]}': (
        GENERIC,
        "QMP input member 'arguments' must be an object",
    ),
    b'{"execute":"stop","foo":1}': (GENERIC, "QMP input member 'foo' is unexpected"),
    b'{"exec-oob":"stop"}': (GENERIC, "QMP input member 'exec-oob' is unexpected"),
    b'{"execute":"nope"}': ("CommandNotFound", "The command nope has not been found"),
    b'{"execute":"query-events"}': (
        "CommandNotFound",
        "The command query-events has not been found",
    ),
    b'{"execute":"qmp_capabilities"}': (
        "CommandNotFound",
        "Capabilities negotiation is already complete, command ignored",
    ),
    b'{"execute":"stop","arguments":{"x":1}}': (GENERIC, "Parameter 'x' is unexpected"),
    b'{"execute":"block_resize","arguments":{"device":"vda"}}': (
        GENERIC,
        "Parameter 'size' is missing",
    ),
    b'{"execute":"block_resize","arguments":{"device":"vda","size":"1"}}': (
        GENERIC,
        "Invalid parameter type for 'size', expected: integer",
    ),
    b'{"execute":"blockdev-add","arguments":{"driver":"nonsense","node-name":"n"}}': (
        GENERIC,
        "Parameter 'driver' does not accept value 'nonsense'",
    ),
    b'{"execute":"block_resize","arguments":{"device":"zz","size":1}}': (
        GENERIC,
        "Cannot find device='zz' nor node-name=''",
    ),
}


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: data.decode())
@pytest.mark.parametrize("size", [1, 1000], ids=["bytewise", "whole"])
def test_malformed_input(size: int, data: bytes, wire: Wire) -> None:
    for start in range(0, len(data), size):
        wire.send(data[start : start + size])
    error = wire.receive()["error"]
    assert (error["class"], error["desc"]) == MALFORMED[data]
    wire.command("query-status")
    assert wire.receive()["return"]["running"], "the connection is as good as before"


def test_stray_bytes_resynchronise(wire: Wire) -> None:
    wire.send(b'{"execute": {{{ "never finished" \xff')
    assert wire.receive()["error"]["desc"].startswith("JSON parse error, stray")
    wire.command("query-status")
    assert wire.receive()["return"]["running"]


def test_before_negotiation(machine: Live) -> None:
    with Wire.connect(machine.control) as client:
        greeting = client.receive()["QMP"]
        assert greeting["capabilities"] == ["oob"]
        client.command("query-status")
        assert client.receive()["error"]["class"] == "CommandNotFound"
        with machine.qmp() as other:
            other("stop")
            other("cont")
        client.command("qmp_capabilities")
        assert client.receive() == {"return": {}}, "no events before the negotiation is over"
        client.command("query-version")
        assert client.receive() == {"return": greeting["version"]}


def test_many_commands_in_one_piece(wire: Wire) -> None:
    commands = [json.dumps({"execute": "query-name", "id": n}) for n in range(2000)]
    wire.send("".join(commands).encode())
    assert [wire.receive()["id"] for _ in range(2000)] == list(range(2000))


def test_ids_come_back_as_they_were(wire: Wire) -> None:
    values: list[Any] = [None, False, 0, 2**64 - 1, -1.5, "ü\u2028\U0001f600", [1, {"a": []}], {}]
    for value in values:
        wire.send(json.dumps({"execute": "query-name", "id": value}).encode())
        reply = wire.receive()
        assert reply["id"] == value and type(reply["id"]) is type(value)


def test_lines_end_with_crlf_and_are_ascii(machine: Live) -> None:
    with connect(machine) as client:
        client.sendall(b'{"execute":"n\xc3\xb6","id":"\xf0\x9f\x98\x80"}')
        lines = client.makefile("rb")
        for _ in range(2):
            line = lines.readline()
            assert line.endswith(b"\r\n") and line.isascii()
        lines.close()


def test_client_that_goes_with_a_command_in_flight(machine: Live, qmp: Qmp) -> None:
    with machine.guest("slow") as guest:
        flight = Flight()
        flight.write(guest, 0, b"x" * 512)
        flight.arrived(qmp)
        with machine.wire() as leaver:
            leaver.send(b'{"execute":"stop"}{"execute":"query-status"}')
            qmp.wait_event("STOP")
        assert flight.land() == ["OK"]
        assert qmp("query-status")["status"] == "paused"
        qmp("stop")
        qmp("cont")
    assert "bug of ours" not in machine.log.read_text()


CLIENT = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.sendall(b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-qmp-schema"}' * 20)
print(flush=True)
sys.stdin.read()
"""


def test_killed_control_client(machine: Live, qmp: Qmp) -> None:
    fds = f"/proc/{machine.pid}/fd"
    before = len(os.listdir(fds))
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, machine.control],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert client.stdin is not None and client.stdout is not None
    client.stdout.readline()
    qmp.wait_for(lambda: len(os.listdir(fds)) > before)
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdin.close()
    client.stdout.close()
    qmp.wait_for(lambda: len(os.listdir(fds)) <= before)


def test_quit_is_answered_before_the_end(tmp_path: Path) -> None:
    with Live(tmp_path, "drive=id=d,driver=null-co") as live:
        with live.wire() as wire, live.qmp() as other:
            wire.send(b'{"execute":"quit","id":"q"}')
            messages: list[dict[str, Any]] = []
            with pytest.raises(EOFError):
                while True:
                    messages.append(wire.receive())
            assert [m.get("event", m.get("id")) for m in messages] == ["SHUTDOWN", "q"]
            assert messages[0]["data"] == {"guest": False, "reason": "host-qmp-quit"}
            other.wait_event("SHUTDOWN")
            with pytest.raises(MachineEnded):
                other.next_event()
        assert live.process.wait(10) == 0
        assert not os.path.exists(live.control)


def test_half_closed_client_has_its_answers(machine: Live) -> None:
    """As `echo … | nc -U` sends them."""
    with connect(machine) as client:
        client.sendall(b'{"execute":"qmp_capabilities"}{"execute":"query-name","id":1}')
        client.shutdown(socket.SHUT_WR)
        data = b""
        while part := client.recv(65536):
            data += part
    assert [json.loads(line) for line in data.splitlines()][1:] == [
        {"return": {}},
        {"return": {}, "id": 1},
    ]
