# SPDX-License-Identifier: MIT
"""Names of files in every locale: bytes are bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import nbd
import pytest

from blockcore.process.server import Server
from blockcore.qapi.names import QmpError
from live import FAULTLINE, TIMEOUT_S, Qmp, make_image
from tree import TREE

MIB = 1 << 20
LOCALES = ["C", "POSIX", "C.UTF-8", "xx_XX.UTF-8"]
"""The last is one that is not installed anywhere."""

NAMES = {"utf-8": "ü".encode(), "latin-1": "ü".encode("latin-1")}


def environ(locale: str, private: Path) -> dict[str, str]:
    settings = {"PYTHONPATH": str(TREE), "LC_ALL": locale}
    return {**os.environ, **settings, "TMPDIR": str(private), "XDG_RUNTIME_DIR": str(private)}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("locale", LOCALES)
def test_any_name_in_any_locale(locale: str, name: bytes, tmp_path: Path) -> None:
    """An image, both sockets and what a command of QMP opens; nothing is left behind."""
    image, socket, control = (os.fsdecode(name + end) for end in (b".img", b".nbd", b".qmp"))
    make_image(tmp_path / image, MIB, 7)
    env = environ(locale, tmp_path)
    process = subprocess.Popen(
        [*FAULTLINE, "serve", "--nbd", socket, "--control", control]
        + [f"drive=id=vda,file={image},format=raw"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with process.stdout:
        ready = json.loads(process.stdout.readline())
    assert ready["control"] == str(tmp_path / control)
    guest = nbd.NBD()
    guest.connect_uri(ready["drives"]["vda"])
    assert guest.pread(1, 0) == b"\7"
    guest.shutdown()
    asked = subprocess.run(
        [*FAULTLINE, "qmp", "-s", control, "query-block"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        timeout=TIMEOUT_S,
        check=True,
    )
    # QEMU, too, has a replacement for what is not UTF-8.
    shown = (name + b".img").decode(errors="replace")
    assert json.loads(asked.stdout)[0]["inserted"]["file"] == shown
    with Qmp.connect(ready["control"]) as qmp:
        new = {"driver": "file", "node-name": "new", "filename": str(tmp_path / "ö.img")}
        make_image(tmp_path / "ö.img", MIB)
        qmp.execute("blockdev-add", new)
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT_S) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([image, "ö.img"])


def test_an_interpreter_that_cannot_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """nbdkit runs the plugin itself, in a locale that has ASCII only: told before it is tried."""

    def ascii_only(name: str) -> bytes:
        return name.encode("ascii", "surrogateescape")

    server = Server({}, "/")
    monkeypatch.setattr(os, "fsencode", ascii_only)
    with pytest.raises(QmpError) as caught:
        server.config("drive", "file=ü.img")
    assert caught.value.desc.startswith("drive=file=ü.img: ")
    assert caught.value.desc.endswith("set LC_ALL=C.UTF-8")
