# SPDX-License-Identifier: MIT
"""Machines whose nbdkit has filters or TLS."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import nbd
import pytest

from live import FAULTLINE, TIMEOUT_S, Flight, Live
from tree import TREE

DRIVE = "drive=id=vda,driver=null-co,size=1M,read-zeroes=on"
BLOCK = 4096


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.psk"
    file.write_text("alice:0123456789abcdef0123456789abcdef\n")
    return file


def test_a_filter(tmp_path: Path) -> None:
    """It is between the client and the machine, which sees what the filter makes of a request."""
    log = tmp_path / "filter.log"
    filters = ("--", "--filter=offset", "--filter=log", f"logfile={log}", "offset=64k")
    with Live(tmp_path, DRIVE, *filters, options=("--quiet",)) as live, live.qmp() as qmp:
        qmp("x-fault-add", node_name="vda", offset=0, length=65536)
        with live.guest() as guest:
            assert guest.get_size() == (1 << 20) - 65536
            guest.pread(BLOCK, 0)
        assert qmp("x-query-faults")[0]["seen"] == 0
    assert "Read id=" in log.read_text()


def test_a_filter_does_its_last_work(tmp_path: Path) -> None:
    """The process ends without nbdkit where there is no filter."""
    statistics = tmp_path / "statistics"
    filters = ("--", "--filter=stats", f"statsfile={statistics}")
    with Live(tmp_path, DRIVE, *filters, options=("--quiet",)) as live:
        with live.guest() as guest:
            guest.pread(BLOCK, 0)
        assert live.stop() == 0
    assert "read: 1 ops" in statistics.read_text()


@pytest.mark.parametrize("how", [(), ("--port", "0")], ids=["unix", "tcp"])
def test_keys(how: tuple[str, ...], keys: Path, tmp_path: Path) -> None:
    """The URI says everything, and nobody connects without a key; requests are held as ever."""
    script = 'nbdinfo --size "$uri"; echo "$uri"; read -r _'
    with subprocess.Popen(
        [*FAULTLINE, "serve", "--quiet", "--tls-psk", str(keys), *how]
        + ["--control", str(tmp_path / "q"), DRIVE, "--run", script],
        env={**os.environ, "PYTHONPATH": str(TREE)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{1 << 20}\n"
        uri = process.stdout.readline().rstrip()
        assert uri.startswith("nbds")
        guest = nbd.NBD()
        guest.set_uri_allow_local_file(True)
        guest.connect_uri(uri)
        assert guest.get_tls_negotiated()
        from_here = Flight()
        read = from_here.read(guest, 0, BLOCK)
        assert from_here.land(read) == ["OK"]
        guest.shutdown()
        plain = nbd.NBD()
        with pytest.raises(nbd.Error):
            plain.connect_uri(uri.replace("nbds", "nbd", 1).partition("tls-psk")[0].rstrip("?&"))
        process.communicate("\n", TIMEOUT_S)
    assert process.returncode == 0


def test_a_client_may_choose(keys: Path, tmp_path: Path) -> None:
    options = ("--tls", "on", "--tls-psk", str(keys))
    with Live(tmp_path, DRIVE, options=options) as live:
        assert live.ready["drives"]["vda"] == live.uri("vda")
        with live.guest("vda") as guest:
            assert not guest.get_tls_negotiated()
        secure = nbd.NBD()
        secure.set_tls(nbd.TLS_REQUIRE)
        secure.set_tls_psk_file(str(keys))
        secure.set_tls_username("alice")
        secure.connect_unix(live.nbd_socket)
        assert secure.get_tls_negotiated()
        secure.shutdown()


FAILURES = {
    "-- --filter=nosuch": "nbdkit: cannot open filter ",
    "-- --filter=delay wdelayx=1": "nbdkit: unknown parameter 'wdelayx'",
    "-- --filter=delay wdelay=x": "nbdkit: wdelay: ",
    "-- --nosuch": "nbdkit: unrecognized option '--nosuch'",
    "--tls require --tls-certificates .": "--tls=require but could not load TLS certificates",
    "--tls on --tls-certificates .": "--tls=on but could not load TLS certificates",
    "--tls-psk nosuch": "nosuch: No such file or directory",
    "--tls-certificates nosuch": "there is no such directory with certificates",
}


@pytest.mark.parametrize("words", FAILURES)
def test_what_nbdkit_refuses(words: str, tmp_path: Path) -> None:
    """One line, in nbdkit's words, and nothing is left."""
    private = {"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": str(TREE)}
    done = subprocess.run(
        [*FAULTLINE, "serve", "--pidfile", "pid", "--nbd", "n", *words.split()],
        cwd=tmp_path,
        env={**os.environ, **private},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert FAILURES[words] in done.stderr
    assert list(tmp_path.iterdir()) == []
