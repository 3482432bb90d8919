# SPDX-License-Identifier: MIT
"""The line that a standby takes: what it may say, and what is made of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from blockcore.process.standby import Order, completed, parse_order, wait_for_line
from blockcore.qapi.names import QmpError

NULL = ("drive", "id=a,driver=null-co")


def test_what_a_line_may_say() -> None:
    assert parse_order(b"{}\n") == Order()
    line = b'{"keys": ["drive=id=a,file=b=c", "name="], "directory": "/d"}\n'
    assert parse_order(line) == Order((("drive", "id=a,file=b=c"), ("name", "")), "/d")


@pytest.mark.parametrize("name", [b"\xff", rb"\udcff"], ids=["byte", "escaped"])
def test_names_that_are_not_utf_8(name: bytes) -> None:
    ((_, value),) = parse_order(b'{"keys": ["name=%s"]}\n' % name).pairs
    assert os.fsencode(value) == b"\xff"


WRONG = {
    b"": "it ended within the line",
    b"{}": "it ended within the line",
    b"\n": "the line is no JSON: ",
    b"{'keys': []}\n": "the line is no JSON: ",
    b"[" * 100_000 + b"\n": "the line is no JSON: ",
    b"[]\n": 'the line is no object: it takes {"keys": [...], "directory": "..."}',
    b'{"key": []}\n': "'key' is no member of the line: it has 'keys' and 'directory'",
    b'{"keys": "drive=id=a"}\n': "'keys' is no array of KEY=VALUE",
    b'{"keys": [1]}\n': "1 in 'keys' is no string KEY=VALUE",
    b'{"keys": ["disk.img"]}\n': "'disk.img' in 'keys' is not KEY=VALUE",
    b'{"keys": ["=x"]}\n': "'=x' in 'keys' is not KEY=VALUE",
    b'{"keys": ["name=\\u0000"]}\n': "\"name=\\u0000\" in 'keys' has a NUL",
    b'{"directory": "here"}\n': "'directory' is no absolute path: \"here\"",
    b'{"directory": null}\n': "'directory' is no absolute path: null",
}


@pytest.mark.parametrize("line", WRONG, ids=[line[:20].decode() for line in WRONG])
def test_what_a_line_may_not_say(line: bytes) -> None:
    with pytest.raises(QmpError) as caught:
        parse_order(line)
    assert caught.value.desc.startswith(WRONG[line])
    assert "\n" not in caught.value.desc


def test_what_is_added(tmp_path: Path) -> None:
    """What `serve` adds to a command line: a drive and a control socket where there is none."""
    drive = ("drive", f"format=raw,id=vda,rerror=stop,werror=enospc,file={tmp_path}/vda.img")
    control = ("control", f"{tmp_path}/control")
    assert completed(Order(), str(tmp_path), None, None) == Order((drive, control), os.getcwd())
    assert (tmp_path / "vda.img").stat().st_size == 1 << 30
    found = completed(Order((NULL, ("control", "q")), "/d"), str(tmp_path), None, None)
    assert found == Order((NULL, ("control", "/d/q")), "/d")
    assert completed(Order((NULL,), "/d"), str(tmp_path), "/named", None) == Order((NULL,), "/d")


@pytest.mark.parametrize(
    ("pairs", "control", "text"),
    [
        ([NULL, ("control", "a")], "/named", "the control socket is given twice"),
        ([NULL, ("control", "a"), ("control", "a")], None, "the control socket is given twice"),
        ([NULL, ("control", "")], None, "control: the path is empty"),
        ([NULL, ("control", "unix:a")], None, "control: 'unix:a' is an address"),
        ([NULL, ("control", "nbd")], None, "the NBD and the control socket cannot be the same"),
        ([("blockdev", "null-co,node-name=a")], None, "blockdev= alone is a node that no NBD"),
    ],
)
def test_what_serve_refuses(
    pairs: list[tuple[str, str]], control: str | None, text: str, tmp_path: Path
) -> None:
    with pytest.raises(QmpError) as caught:
        completed(Order(tuple(pairs), "/d"), str(tmp_path), control, "/d/nbd")
    assert caught.value.desc.startswith(text)
    assert list(tmp_path.iterdir()) == []


def test_a_line_in_pieces() -> None:
    """What comes after it is not waited for."""
    reader, writer = os.pipe()
    thread = threading.Thread(target=lambda: [os.write(writer, b) for b in (b"{", b"}\nrest")])
    thread.start()
    assert wait_for_line(reader, -1) == b"{}\n"
    thread.join()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(("sent", "line"), [(b"", None), (b"{", b"{")])
def test_an_input_that_ends(sent: bytes, line: bytes | None) -> None:
    reader, writer = os.pipe()
    os.write(writer, sent)
    os.close(writer)
    assert wait_for_line(reader, -1) == line
    os.close(reader)
