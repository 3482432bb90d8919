# SPDX-License-Identifier: MIT
"""A program must survive a disk that is full for a while.

Run it with pytest, `faultline` on PATH; put your own program in nbdcopy's place.
"""

import json
import os
import socket
import subprocess

import pytest

PATIENCE_S = 30  # nothing waits longer, so that a mistake does not hang the run


class Qmp:
    """The control socket of a machine: commands, and events in the order of their arrival."""

    def __init__(self, control, process, log):
        self.control, self.messages, self.events = control, control.makefile(), []
        self.process, self.log = process, log
        self.receive()  # the greeting
        self("qmp_capabilities")

    def receive(self):
        """Return the next message; raises TimeoutError if none comes in time."""
        if line := self.messages.readline():
            return json.loads(line)
        self.process.wait(PATIENCE_S)  # its log is complete then
        raise AssertionError(f"the machine has ended; its log:\n{self.log.read_text()}")

    def __call__(self, command, **arguments):
        self.control.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "event" in (message := self.receive()):
            self.events.append(message)
        assert "return" in message, f"{command}: {message['error']['desc']}"
        return message["return"]

    def wait_event(self, name):
        """Return the data of the next event of a name; events before it are dropped."""
        while (event := self.events.pop(0) if self.events else self.receive())["event"] != name:
            pass
        return event.get("data")


@pytest.fixture
def machine(tmp_path):
    """Run a machine with the drive vda, 16 MiB; yield its NBD URI and its control socket."""
    (tmp_path / "disk.img").write_bytes(bytes(16 << 20))
    drive = f"drive=id=vda,file={tmp_path}/disk.img,format=raw,rerror=stop,werror=enospc"
    log = tmp_path / "machine.log"
    serve = ["faultline", "serve", drive]
    with log.open("w") as stderr:
        process = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=stderr)
    with process, socket.socket(socket.AF_UNIX) as control:
        ready = process.stdout.readline()  # comes when both sockets accept
        assert ready, f"the machine did not start:\n{log.read_text()}"
        ready = json.loads(ready)
        try:
            control.settimeout(PATIENCE_S)
            control.connect(ready["control"])
            yield ready["drives"]["vda"], Qmp(control, process, log)
        finally:
            process.terminate()  # a program that still waits for its disk is disconnected


def test_full_disk(machine, tmp_path):
    uri, qmp = machine
    (tmp_path / "source.img").write_bytes(os.urandom(16 << 20))
    full = {"node-name": "vda", "iotype": "write", "errno": "ENOSPC", "offset": 8 << 20}
    fault = qmp("x-fault-add", **full)  # from the middle of the disk on
    program = subprocess.Popen(["nbdcopy", tmp_path / "source.img", uri])
    qmp.wait_event("STOP")
    assert qmp("query-block")[0]["io-status"] == "nospace"
    assert program.poll() is None  # neither failed nor finished
    qmp("x-fault-remove", **fault)
    qmp("cont")
    assert program.wait(PATIENCE_S) == 0
    assert (tmp_path / "disk.img").read_bytes() == (tmp_path / "source.img").read_bytes()
