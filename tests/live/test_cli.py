# SPDX-License-Identifier: MIT
"""The `faultline` command: its refusals, nbdkit's command line, and QMP with QEMU as the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from blockcore.cli import connection, main
from blockcore.cli.embedding import Nbdkit, find_nbdkit
from blockcore.cli.listen import BoundPort, TcpPort, UnixSocket
from blockcore.cli.nbdkit_command import TOP, serve_command
from blockcore.cli.plugin_packages import plugin_packages
from live import Live

NBDKIT = Nbdkit(Path("/opt/kit/sbin/nbdkit"), (3, 11))

FAULTLINE = [sys.executable, "-c", "import sys, blockcore.cli; sys.exit(blockcore.cli.main())"]


def listener(path: Path | None = None) -> socket.socket:
    """A listening Unix socket at `path`, or a TCP one on a free port."""
    server = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
    server.bind(str(path) if path else ("127.0.0.1", 0))
    server.listen()
    return server


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two QMP sockets of one QEMU without a guest; QMP itself allows one client each."""
    paths = (tmp_path / "a", tmp_path / "b")
    # QEMU gets sockets that listen already, so clients may connect before it runs.
    servers = [listener(path) for path in paths]
    monitors = []
    for server in servers:
        number = server.fileno()
        monitors += ["-chardev", f"socket,id=c{number},fd={number},server=on,wait=off"]
        monitors += ["-mon", f"chardev=c{number},mode=control"]
    argv = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none", "-S"]
    with subprocess.Popen(argv + monitors, pass_fds=[s.fileno() for s in servers]) as process:
        for server in servers:
            server.close()
        try:
            yield str(paths[0]), str(paths[1])
        finally:
            process.terminate()


REFUSALS = [
    (
        "serve 1x=y",
        2,
        "faultline serve: '1x=y' is not KEY=VALUE: a key begins with a letter"
        " (see faultline serve --help)",
    ),
    (
        "serve --nbd a --port 3",
        2,
        "faultline serve: --nbd and --port exclude each other (see faultline serve --help)",
    ),
    (
        "serve --address ::1",
        2,
        "faultline serve: --address needs --port (see faultline serve --help)",
    ),
    (
        "serve control=a --control b",
        2,
        "faultline serve: the control socket is given twice (see faultline serve --help)",
    ),
    *(
        (
            f"{words} {option} {values[0]} {other} {values[1]}",
            2,
            f"faultline {words}: {option} is given twice (see faultline {words} --help)",
        )
        for words, option, other, values in (
            *(("serve", "--nbd", "--nbd", "ab"), ("serve", "--port", "--port", "12")),
            *(("serve", "--address", "--address", "ab"), ("serve", "--control", "--control", "ab")),
            ("serve", "--socket-mode", "--socket-mode", "77"),
            ("serve", "--socket-group", "--socket-group", "ab"),
            ("serve", "--threads", "--threads", "12"),
            ("serve", "--log-format", "--log-format", ("json", "json")),
            *(("qmp", "--socket", "-s", "ab"), ("events", "--count", "--count", "12")),
            *(("jobs", "--socket", "-s", "ab"), ("job pause", "--socket", "-s", "ab")),
        )
    ),
    (
        "serve control=",
        2,
        "faultline serve: control: the path is empty (see faultline serve --help)",
    ),
    (
        "serve --nbd a control=./a",
        2,
        "faultline serve: the NBD and the control socket cannot be the same"
        " (see faultline serve --help)",
    ),
    (
        "qmp cont",
        2,
        "faultline qmp: no control socket: use --socket or set FAULTLINE_CONTROL"
        " (see faultline qmp --help)",
    ),
    (
        "serve blockdev=driver=null-co,node-name=n",
        2,
        "faultline serve: blockdev= alone is a node that no NBD client can reach: add"
        " device=virtio-blk,drive=NODE-NAME (or control=SOCKET, if jobs are all it is for)"
        " (see faultline serve --help)",
    ),
    ("qmp -s nope cont", 1, "faultline: nope: No such file or directory"),
    ("events -s stale", 1, "faultline: stale: Connection refused"),
    ("events -s .", 1, "faultline: .: is not a socket"),
    (f"jobs -s {__file__}", 1, f"faultline: {__file__}: is not a socket"),
    *(
        (
            f"serve {words}{address}",
            2,
            f"faultline serve: {words.strip('= ')}: '{address}' is an address, and this is the"
            f" path of a Unix socket{instead} (for a file of that name, ./{address})"
            " (see faultline serve --help)",
        )
        for words, address, instead in (
            (
                "control=",
                "tcp:127.0.0.1:4444",
                "; for TCP relay it: socat TCP-LISTEN:4444,bind=127.0.0.1,fork,reuseaddr"
                " UNIX-CONNECT:SOCKET",
            ),
            ("control=", "unix:x,server=on", ", such as x"),
            ("--nbd ", "unix:x", ", such as x"),
        )
    ),
]


@pytest.mark.parametrize(("words", "status", "line"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_refusal_is_one_line(
    words: str,
    status: int,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FAULTLINE_CONTROL", raising=False)
    listener(Path("stale")).close()
    assert main(words.split()) == status
    assert capsys.readouterr() == ("", line + "\n")
    assert [path.name for path in tmp_path.iterdir()] == ["stale"]


HELPS: list[list[str]] = [
    *([], ["serve"], ["qmp"], ["events"], ["jobs"], ["job"], ["job", "wait"], ["job", "pause"]),
    *(["job", "resume"], ["job", "cancel"], ["job", "complete"], ["job", "finalize"]),
    *(["job", "dismiss"], ["job", "set-speed"], ["status"], ["ls"], ["wait"], ["completion"]),
    *(["cont"], ["stop"], ["reset"], ["quit"], ["drive"], ["drive", "set-policy"], ["fault"]),
    *(["fault", verb] for verb in ("add", "list", "modify", "remove", "clear")),
    *(["volume"], ["volume", "extend"], ["volume", "list"], ["bitmap"], ["bitmap", "list"]),
    *(["bitmap", verb] for verb in ("add", "remove", "clear", "enable", "disable", "merge")),
]


@pytest.mark.parametrize("command", HELPS, ids=str)
def test_help_shows_examples(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: faultline")
    assert f"  faultline {' '.join(command)}" in out
    assert max(map(len, out.splitlines())) <= 80


def test_serve_command_line() -> None:
    argv, env = serve_command(
        ["drive=id=a,,b", "control=relative", "drive=id=c"],
        nbdkit=NBDKIT,
        plugin=Path("/p/drive.py"),
        packages=[Path("/packages")],
        listen=UnixSocket(Path("/s/nbd")),
        control=Path("/s/control"),
        threads=7,
        log_format="json",
        runtime_dir=None,
        environ={
            "PATH": "/own:/usr/bin",
            "PYTHONPATH": "/mine",
            "PYTHONHOME": "/mine",
            "HOME": "/h",
            "FAULTLINE_RUNTIME_DIR": "/h",
            "FAULTLINE_NBD_PORT": "1",
        },
    )
    options = ["-f", "--log=null", "-U", "/s/nbd", "-t", "7"]
    keys = ["drive=id=a,,b", "drive=id=c", "control=/s/control"]
    assert argv == ["/opt/kit/sbin/nbdkit", *options, "python", "/p/drive.py", *keys]
    # An inherited runtime directory would be deleted at the end.
    assert {name: value for name, value in env.items() if name.startswith("FAULTLINE")} == {
        "FAULTLINE_SERVE": "1",
        "FAULTLINE_LOG": "json",
        "FAULTLINE_NBD_SOCKET": "/s/nbd",
        "FAULTLINE_NBD_MODE": "755",
    }
    assert env["HOME"] == "/h"
    assert env["PYTHONPATH"] == f"/packages:{TOP}:/mine"
    # The embedded interpreter's standard library and libnbd are found from the first python3.
    assert env["PATH"] == "/opt/kit/bin:/usr/bin:/own:/usr/bin"
    assert "PYTHONHOME" not in env
    # Whatever the user's is: the encoding of file names comes from it.
    assert env["LC_ALL"] == "C.UTF-8"


def test_serve_command_line_tcp_and_private_directory() -> None:
    argv, env = serve_command(
        [],
        nbdkit=NBDKIT,
        plugin=Path("/p/drive.py"),
        packages=[Path("/packages")],
        listen=BoundPort("127.0.0.1", 10809),
        control=None,
        log_format="console",
        runtime_dir=Path("/run/private"),
        environ={},
    )
    assert argv == [
        *("/opt/kit/sbin/nbdkit", "-f", "--log=null"),
        *("python", "/p/drive.py", "control=/run/private/control"),
    ]
    assert env["FAULTLINE_NBD_PORT"] == "10809"
    assert env["FAULTLINE_NBD_ADDRESS"] == "127.0.0.1"
    assert env["FAULTLINE_RUNTIME_DIR"] == "/run/private"
    assert env["FAULTLINE_LOG"] == "console"


PROBE_PLUGIN = """
import json, os, sys
import nbd, structlog
import blockcore.bql.effects
seen = []
def config(key, value):
    seen.append([key, value])
def config_complete():
    print(json.dumps([seen, os.environ["FAULTLINE_SERVE"]]), flush=True)
    os._exit(0)
def open(readonly): pass
def get_size(handle): return 0
def pread(handle, buffer, offset, flags): pass
"""


def test_embedded_interpreter_finds_every_package(tmp_path: Path) -> None:
    plugin = tmp_path / "drive.py"
    plugin.write_text(PROBE_PLUGIN)
    nbdkit = find_nbdkit(os.environ)
    argv, env = serve_command(
        ["drive=id=vda"],
        nbdkit=nbdkit,
        plugin=plugin,
        packages=plugin_packages(nbdkit, os.environ),
        listen=UnixSocket(tmp_path / "nbd"),
        control=None,
        log_format="json",
        runtime_dir=tmp_path,
        environ=os.environ,
    )
    out = subprocess.run(argv, env=env, cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout
    keys = [["drive", "id=vda"], ["control", str(tmp_path / "control")]]
    assert json.loads(out) == [keys, "1"]


def test_claim_replaces_a_stale_socket(tmp_path: Path) -> None:
    path = tmp_path / "nbd"
    listener(path).close()
    UnixSocket(path).claim()
    assert not path.exists()
    UnixSocket(path).claim()


def test_claim_refuses_a_live_socket(tmp_path: Path) -> None:
    path = tmp_path / "nbd"
    with listener(path):
        with pytest.raises(Exception, match="a server is listening there already"):
            UnixSocket(path).claim()
        assert path.exists()


def test_claim_refuses_a_live_socket_that_does_not_accept(tmp_path: Path) -> None:
    path = tmp_path / "nbd"
    with listener(path) as server, socket.socket(socket.AF_UNIX) as queued:
        server.listen(0)
        queued.connect(str(path))
        with pytest.raises(Exception, match="a server is listening there already"):
            UnixSocket(path).claim()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("file", "exists and is not a socket", id="file"),
        pytest.param("missing/nbd", "No such file or directory", id="no-directory"),
        pytest.param("file/nbd", "Not a directory", id="under-a-file"),
        pytest.param("x" * 108, "has at most 107 bytes", id="long"),
    ],
)
def test_claim_refuses_a_path_that_cannot_be_bound(
    name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("content")
    with pytest.raises(Exception, match=message):
        UnixSocket(tmp_path / name).claim()
    assert (tmp_path / "file").read_text() == "content"


def test_claim_of_a_port() -> None:
    with listener() as server:
        port = TcpPort("127.0.0.1", server.getsockname()[1])
        with pytest.raises(Exception, match=f"127.0.0.1:{port.port}: Address already in use"):
            port.claim()
    (bound,) = port.claim().sockets
    with bound:
        assert bound.getsockname() == ("127.0.0.1", port.port)


def test_any_free_port() -> None:
    """One for all addresses, and nobody else can have it."""
    claimed = TcpPort("localhost", 0).claim()
    with contextlib.ExitStack() as stack:
        for bound in claimed.sockets:
            stack.enter_context(bound)
        assert claimed.sockets and claimed.port
        assert {bound.getsockname()[1] for bound in claimed.sockets} == {claimed.port}
        with pytest.raises(Exception, match="Address already in use"):
            TcpPort("localhost", claimed.port).claim()


def test_a_port_that_is_free_at_one_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is tried; none of the attempts leaves a socket."""
    first, second = ("127.0.0.1", "127.0.0.2")
    bind, made = socket.socket.bind, []

    class Watched(socket.socket):
        def bind(self, address: Any) -> None:
            made.append(self)
            bind(self, address)
            if address[0] == first and len(made) == 1:
                taken.bind((second, self.getsockname()[1]))
                taken.listen()

    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, 0)) for host in (first, second)]
    with socket.socket() as taken:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
        monkeypatch.setattr("blockcore.cli.listen.socket.socket", Watched)
        claimed = TcpPort("both", 0).claim()
    assert len(made) == 4 and claimed.sockets == tuple(made[2:])
    assert [each.fileno() >= 0 for each in made] == [False, False, True, True]
    for bound in claimed.sockets:
        bound.close()


def test_qmp_prints_what_the_command_returns(
    qemu: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTLINE_CONTROL", qemu[0])
    node = ["driver=raw", "node-name=n1", "file.driver=null-co", "file.size=4096"]
    assert main(["qmp", "blockdev-add", *node]) == 0
    assert capsys.readouterr() == ("{}\n", "")
    assert main(["qmp", "query-named-block-nodes", "flat=true"]) == 0
    nodes = json.loads(capsys.readouterr().out)
    assert next(node for node in nodes if node["node-name"] == "n1")["drv"] == "raw"
    assert main(["qmp", "blockdev-del", "node-name=nope"]) == 1
    line = "faultline: Failed to find node with node-name='nope': there is n1\n"
    assert capsys.readouterr() == ("", line)


def test_qmp_takes_words_by_the_schema_of_the_server(
    qemu: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU's schema has commands and types of which this project knows nothing."""
    monkeypatch.setenv("FAULTLINE_CONTROL", qemu[0])
    group = ["qom-type=throttle-group", "id=t0", "limits.iops-total=5"]
    assert main(["qmp", "object-add", *group]) == 0
    path = ["path=/objects/t0", "property=limits"]
    capsys.readouterr()
    assert main(["qmp", "qom-get", *path]) == 0
    assert json.loads(capsys.readouterr().out)["iops-total"] == 5
    assert main(["qmp", "object-add", "qom-type=throttle-grop", "id=1"]) == 2
    assert "did you mean 'throttle-group'?" in capsys.readouterr().err
    # QEMU's schema does not show the properties of devices.
    assert main(["qmp", "device_add", "driver=no-such", "id=d", "num-queues=4"]) == 1
    assert "'no-such' is not a valid device model name" in capsys.readouterr().err
    assert main(["qmp", "block_resize", "node=n", "size=10M"]) == 2
    assert "Parameter 'node' is unexpected, did you mean 'node-name'?" in capsys.readouterr().err


def test_qmp_help_of_another_server(
    qemu: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTLINE_CONTROL", qemu[0])
    assert main(["qmp", "--list"]) == 0
    assert "device_add" in capsys.readouterr().out.splitlines()
    assert main(["qmp", "block_resize", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  size=NUMBER                     required" in lines
    assert not any("Change the size" in line for line in lines)
    assert main(["qmp", "x-fault-add", "--help"]) == 1
    monkeypatch.delenv("FAULTLINE_CONTROL")
    assert main(["qmp", "x-fault-add", "--help"]) == 0
    assert "  node-name=TEXT                  required" in capsys.readouterr().out


def test_qmp_quit_has_a_reply(qemu: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["qmp", "-s", qemu[0], "quit"]) == 0
    assert capsys.readouterr() == ("{}\n", "")


@pytest.mark.parametrize("says", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"{}\n"], ids=str)
def test_a_server_of_something_else(
    says: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await writer.drain()
        writer.close()

    async def scenario() -> int:
        async with await asyncio.start_unix_server(answer, path):
            return await asyncio.to_thread(main, ["qmp", "-s", str(path), "cont"])

    path = tmp_path / "other"
    assert asyncio.run(scenario()) == 1
    assert capsys.readouterr() == ("", f"faultline: {path}: does not speak QMP\n")


def test_a_server_that_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "GREETING_TIMEOUT_S", 0.05)
    path = tmp_path / "silent"
    with listener(path):
        assert main(["events", "-s", str(path)]) == 1
    assert "no QMP greeting within 0.05 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (
            "device=virtio-blk,drive=d",
            "Property 'virtio-blk-device.drive' can't find value 'd': device= needs the id of a"
            " drive, drive=id=d,if=none,..., or the node-name of a blockdev=",
        ),
        ("drive=id=vda,file=nope", "Could not open 'nope': No such file or directory"),
        ("prelaunch=soon", "Parameter 'prelaunch' expects 'on' or 'off'"),
    ],
)
def test_serve_names_the_wrong_key(pair: str, reason: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [*FAULTLINE, "serve", "control=q", "blockdev=null-co,node-name=n", pair, "seed=1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"faultline: {pair}: {reason}\n"
    assert not list(tmp_path.iterdir())


def test_serve_without_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(
        [*FAULTLINE, "serve"],
        cwd=TOP,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline())
            guest = nbd.NBD()
            guest.connect_uri(ready["drives"]["vda"])
            assert guest.get_size() == 1 << 30
            guest.pwrite(b"kept", 512)
            assert guest.pread(4, 512) == b"kept"
            guest.shutdown()
            assert main(["qmp", "-s", ready["control"], "query-block"]) == 0
            assert json.loads(capsys.readouterr().out)[0]["io-status"] == "ok"
        finally:
            process.terminate()
        assert process.wait(timeout=20) == 0
    assert list(tmp_path.iterdir()) == []


def follow(path: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*FAULTLINE, "events", "-s", path, *words],
        cwd=TOP,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_connected(process: subprocess.Popen[str], path: str) -> None:
    assert process.stderr is not None
    assert process.stderr.readline() == f"faultline: following {path}\n"


def test_events_counts_the_named_ones(qemu: tuple[str, str]) -> None:
    with follow(qemu[1], "--count", "1", "STOP") as process:
        wait_connected(process, qemu[1])
        assert main(["qmp", "-s", qemu[0], "cont"]) == 0
        assert main(["qmp", "-s", qemu[0], "stop"]) == 0
        out, err = process.communicate(timeout=20)
        assert json.loads(out)["event"] == "STOP"
        assert err == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["BLOCK_IO_EROR"], "there is no event 'BLOCK_IO_EROR', did you mean 'BLOCK_IO_ERROR'?"),
        (["STOP", "stop"], "there is no event 'stop', did you mean 'STOP'?"),
        (["block-io-error"], "there is no event 'block-io-error', did you mean 'BLOCK_IO_ERROR'?"),
        (["nonsense"], "there is no event 'nonsense'"),
        (
            ["STOP,RESUME"],
            "'STOP,RESUME' is no name of an event: separate names with blanks, as in STOP RESUME",
        ),
    ],
)
def test_events_that_do_not_exist(
    names: list[str], message: str, qemu: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["events", "-s", qemu[0], "--count", "1", *names]) == 2
    line = f"faultline events: {message} (see faultline events --help)\n"
    assert capsys.readouterr() == ("", line)


ENDS = {"SIGKILL": "the connection was lost, without SHUTDOWN", "SIGTERM": None}


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("names", [[], ["STOP"]])
def test_events_of_a_machine_that_ends(how: str, names: list[str], tmp_path: Path) -> None:
    """Success is to have had what was asked for, or to be told of the end."""
    with Live(tmp_path, "drive=id=vda,driver=null-co") as live, contextlib.ExitStack() as stack:
        counts = [[], ["--count", "2"]]
        plain, counting = (
            stack.enter_context(follow(live.control, *names, *words)) for words in counts
        )
        for process in plain, counting:
            wait_connected(process, live.control)
        if names:
            assert main(["qmp", "-s", live.control, "stop"]) == 0
            for process in plain, counting:
                assert process.stdout is not None
                assert json.loads(process.stdout.readline())["event"] == "STOP"
        live.stop(signal.Signals[how])
        words = plain.communicate(timeout=20)[1]
        assert words == (f"faultline: {live.control}: {ENDS[how]}\n" if ENDS[how] else "")
        assert plain.returncode == (1 if ENDS[how] else 0)
        err = counting.communicate(timeout=20)[1]
        came = len(names) + (0 if names or ENDS[how] else 1)
        assert err == (
            f"faultline: {live.control}: the machine has ended after {came} of 2 events\n"
        )
        assert counting.returncode == 1


def test_events_interrupted_before_the_last(qemu: tuple[str, str]) -> None:
    with follow(qemu[1], "--count", "1") as process:
        wait_connected(process, qemu[1])
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "\n")
    assert process.returncode == 130


@pytest.mark.parametrize("end", ["interrupt", "server", "reader"])
def test_events_ends_cleanly(end: str, qemu: tuple[str, str]) -> None:
    with follow(qemu[1], "RESUME") as process:
        assert process.stdout is not None and process.stderr is not None
        wait_connected(process, qemu[1])
        assert main(["qmp", "-s", qemu[0], "cont"]) == 0
        assert json.loads(process.stdout.readline())["event"] == "RESUME"
        if end == "interrupt":
            process.send_signal(signal.SIGINT)
        elif end == "server":
            assert main(["qmp", "-s", qemu[0], "quit"]) == 0
        else:
            # Nothing is written any more, it has to notice by itself.
            process.stdout.close()
        assert process.wait(timeout=20) == 0
        assert process.stderr.read() == ""
