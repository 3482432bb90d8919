# SPDX-License-Identifier: MIT
"""A machine that has to do with a server that can hang, and what must go on all the same."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from live import Live, Qmp, freeze, make_image
from nbd_servers import killed, nbdkit

MIB = 1 << 20


BLOCK = 4096


SIZE = 8 * MIB


FAR = {"driver": "nbd", "node-name": "far", "server": {"type": "unix", "path": "kit.sock"}}


class Place:
    """A machine with a drive `a` that has to do with a server, and `b` that has not."""

    def __init__(self, directory: Path, *keys: str) -> None:
        self.directory = directory
        for name in "ab":
            make_image(directory / f"{name}.img", SIZE, pattern=ord(name))
        self.server = nbdkit(directory, "memory", str(SIZE))
        self.keys = keys or ("drive=id=a,file=a.img,format=raw,werror=report",)

    @contextlib.contextmanager
    def machine(self) -> Iterator[tuple[Live, Qmp]]:
        drive = "drive=id=b,file=b.img,format=raw"
        with killed(self.server), Live(self.directory, *self.keys, drive) as live:
            with live.qmp() as qmp:
                yield live, qmp

    def hang(self) -> None:
        freeze(self.server)

    def go_on(self) -> None:
        self.server.send_signal(signal.SIGCONT)

    def use_the_other(self, live: Live, qmp: Qmp) -> None:
        """Everything that can be done to `b` is done at once, however long `a` waits."""
        directory = self.directory
        names = ("s0", "s1", "copy", "backup")
        with live.guest("b") as guest:
            qmp("blockdev-add", driver="file", node_name="f", filename="b.img", read_only=True)
            qmp("blockdev-del", node_name="f")
            for name in names[:2]:
                file = str(directory / f"{name}.qcow2")
                snapshot: dict[str, Any] = {"device": "b", "snapshot-file": file}
                qmp.execute("blockdev-snapshot-sync", snapshot)
                guest.pwrite(name[:1].encode() * BLOCK, 0)
            # Also as it is asked for by its own guest, in the middle of requests.
            qmp("block_resize", device="b", size=SIZE + MIB)
            qmp("block_resize", device="b", size=SIZE)
            for command in ("drive-mirror", "drive-backup"):
                target = str(directory / f"{command}.raw")
                qmp(command, job_id="jb", device="b", target=target, sync="full", format="raw")
                if command == "drive-mirror":
                    qmp.wait_event("BLOCK_JOB_READY")
                    qmp("job-complete", id="jb")
                assert "error" not in qmp.wait_event("BLOCK_JOB_COMPLETED").data
                wait_null(qmp, "jb")
                guest.pwrite(b"n" * BLOCK, BLOCK)
            qmp("query-jobs")
            qmp("query-block")
            qmp("query-named-block-nodes")
            assert guest.pread(BLOCK, BLOCK) == b"n" * BLOCK

    def stop_and_go(self, live: Live, qmp: Qmp) -> None:
        """STOP is said, and after `cont` guests go on, though there is no answer to `stop` yet.

        Nor does a reset keep them.
        """
        with live.guest("b") as guest, live.wire() as other, live.wire() as third:
            third.command("system_reset")
            qmp.wait_event("RESET")
            guest.pwrite(b"r" * BLOCK, 0)
            for _ in range(3):
                other.command("stop")
                qmp.wait_event("STOP")
                assert not qmp("query-status")["running"]
                qmp("cont")
                guest.pwrite(b"c" * BLOCK, 0)
                assert "return" in other.reply()


def wait_null(qmp: Qmp, job: str) -> None:
    qmp.wait_event("JOB_STATUS_CHANGE", id=job, status="null")
