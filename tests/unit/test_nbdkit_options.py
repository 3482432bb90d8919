# SPDX-License-Identifier: MIT
"""What is passed on to nbdkit: options behind ``--``, and TLS."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from blockcore.cli.nbdkit_options import parse_nbdkit_options
from blockcore.cli.rehearsal import reason
from blockcore.cli.serve_options import ServeOptions
from blockcore.cli.tls import Tls, tls
from blockcore.process.nbd_address import NbdAddress

PASSED = {
    "": ([], [], {}),
    "--filter=delay wdelay=1": (["--filter=delay"], ["wdelay=1"], {}),
    "wdelay=1 --filter delay --filter cow": (
        ["--filter=delay", "--filter=cow"],
        ["wdelay=1"],
        {},
    ),
    "--fil delay": (["--filter=delay"], [], {}),
    "-r -v --no-sr": (["--readonly", "--verbose", "--no-sr"], [], {}),
    "-rvDpython.x=1": (["--readonly", "--verbose", "--debug=python.x=1"], [], {}),
    "-D python.x=1": (["--debug=python.x=1"], [], {}),
    "--read-only": (["--readonly"], [], {}),
    "--tls=on --tls-psk f": ([], [], {"--tls": "on", "--tls-psk": "f"}),
    "--tls-verify-peer": (["--tls-verify-peer"], [], {}),
    "--later=1 --latest": (["--later=1", "--latest"], [], {}),
    "logfile=x,y=z --filter=log": (["--filter=log"], ["logfile=x,y=z"], {}),
}


@pytest.mark.parametrize("words", PASSED)
def test_what_is_passed_on(words: str) -> None:
    parsed = parse_nbdkit_options(words.split())
    assert (parsed.options, parsed.parameters, parsed.tls) == PASSED[words]


REFUSED = {
    "-U x": "-U of nbdkit: use serve --nbd SOCKET",
    "-Ux": "-U of nbdkit: use serve --nbd SOCKET",
    "--unix=x": "--unix of nbdkit: use serve --nbd SOCKET",
    "-p 1": "-p of nbdkit: use serve --port N",
    "-i ::": "-i of nbdkit: use serve --address ADDRESS",
    "--ip-addr=::": "--ip-addr of nbdkit: use serve --address ADDRESS",
    "-rf": "-f of nbdkit: the machine is in the foreground",
    "--no-fork": "--no-fork of nbdkit: the machine is in the foreground",
    "--run x": "--run of nbdkit: use serve --run COMMAND",
    "-s": "-s of nbdkit: the machine serves on sockets",
    "-P x": "-P of nbdkit: use serve --pidfile FILE",
    "--pid x": "--pid of nbdkit: use serve --pidfile FILE",
    "--exit": "--exit of nbdkit: use serve --exit-with-parent",
    "--log=stderr": "--log of nbdkit: use serve --log-file FILE",
    "-t 1": "-t of nbdkit: use serve --threads N",
    "--thr=1": "--thr of nbdkit: use serve --threads N",
    "--vsock": "--vsock of nbdkit: the machine serves on Unix and TCP",
    "-u nobody": "-u of nbdkit: start faultline as that user",
    "--dump-plugin": "--dump-plugin of nbdkit: nbdkit itself answers that: nbdkit python --dump",
    "--filter": "--filter of nbdkit requires an argument",
    "-D": "-D of nbdkit requires an argument",
    "--tls=on --tls=on": "--tls is given twice",
    "drive=id=a": "drive= belongs in front of --",
    "control=q": "control= belongs in front of --",
    "disk.img": "'disk.img' behind -- is neither an option nor KEY=VALUE",
    "-": "'-' behind -- is neither an option nor KEY=VALUE",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused(words: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse_nbdkit_options(words.split())
    assert REFUSED[words] in caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nbdkit: debug: a\nnbdkit: error: no\nmore", "no"),
        ("nbdkit: warning: --tls=on but\n", "--tls=on but"),
        ("nbdkit: /usr/bin/nbdkit: unrecognized option '--x'\nusage", "unrecognized option '--x'"),
        ("/nope: No such file or directory", "/nope: No such file or directory"),
        ("", "it fails with these options, and does not say why"),
    ],
)
def test_reason(text: str, expected: str) -> None:
    assert reason(text) == expected


def test_keys_of_tls(tmp_path: Path) -> None:
    file = tmp_path / "a key"
    file.write_text("# comment\n\nal ice:0123456789abCDEF\nbob:00\n")
    secure = tls(None, str(file), None)
    assert secure == Tls("require", True, str(file), "al ice")
    assert secure.arguments() == ["--tls=require", f"--tls-psk={file}"]
    named = {"FAULTLINE_NBD_SOCKET": "/a&b"}
    query = f"tls-psk-file={tmp_path}/a%20key"
    uri = NbdAddress(named | secure.environment()).uri("vda")
    assert uri == f"nbds+unix://al%20ice@/vda?socket=/a%26b&{query}"
    port = {"FAULTLINE_NBD_ADDRESS": "::1", "FAULTLINE_NBD_PORT": "9"}
    uri = NbdAddress(port | secure.environment()).uri("vda")
    assert uri == f"nbds://al%20ice@[::1]:9/vda?{query}"
    assert tls("on", str(file), None).environment() == {}
    assert tls("on", str(file), None).arguments()[0] == "--tls=on"
    assert tls("off", str(file), None).arguments() == []


def test_certificates_of_tls(tmp_path: Path) -> None:
    secure = tls(None, None, str(tmp_path))
    assert secure.arguments() == ["--tls=require", f"--tls-certificates={tmp_path}"]
    uri = NbdAddress({"FAULTLINE_NBD_SOCKET": "/n"} | secure.environment()).uri("vda")
    assert uri == f"nbds+unix:///vda?socket=/n&tls-certificates={tmp_path}"
    anybody = tls("require", None, None)
    assert anybody.arguments() == ["--tls=require"]
    uri = NbdAddress({"FAULTLINE_NBD_SOCKET": "/n"} | anybody.environment()).uri("vda")
    assert uri == "nbds+unix:///vda?socket=/n"
    assert tls(None, None, None) == Tls()


@pytest.mark.parametrize("content", ["", "alice", "alice:", "alice:xyz", "alice:012", "#a:00"])
def test_a_file_without_keys(content: str, tmp_path: Path) -> None:
    (tmp_path / "psk").write_text(content)
    with pytest.raises(click.ClickException, match="there is no line USER:KEY"):
        tls(None, str(tmp_path / "psk"), None)


def test_tls_that_makes_no_sense() -> None:
    both = ServeOptions(tls="on", nbdkit=parse_nbdkit_options(["--tls=on"]))
    with pytest.raises(click.UsageError, match="--tls is given twice"):
        both.chosen_tls()
    with pytest.raises(click.UsageError, match="exclude each other"):
        tls(None, "a", "b")
    with pytest.raises(click.UsageError, match="'maybe' is not one of off, on, require"):
        ServeOptions(nbdkit=parse_nbdkit_options(["--tls=maybe"])).chosen_tls()
