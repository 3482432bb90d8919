"""A program must survive a disk that is full for a while.

Run it with pytest, `faultline` on PATH; put your own program in nbdcopy's place.
"""

import json
import os
import socket
import subprocess

import pytest


class Qmp:
    """The control socket of a machine: commands, and events in the order of their arrival."""

    def __init__(self, control):
        self.control, self.messages, self.events = control, control.makefile(), []
        self.messages.readline()  # the greeting
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.control.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "event" in (message := json.loads(self.messages.readline())):
            self.events.append(message)
        return message["return"]  # a KeyError shows the error reply

    def wait_event(self, name):
        while not any(event["event"] == name for event in self.events):
            self.events.append(json.loads(self.messages.readline()))


@pytest.fixture
def machine(tmp_path):
    """A running machine with the drive vda, 16 MiB: its NBD URI and its control socket."""
    (tmp_path / "disk.img").write_bytes(bytes(16 << 20))
    drive = f"drive=id=vda,file={tmp_path}/disk.img,format=raw,rerror=stop,werror=enospc"
    process = subprocess.Popen(["faultline", "serve", drive], stdout=subprocess.PIPE)
    with process, socket.socket(socket.AF_UNIX) as control:
        ready = json.loads(process.stdout.readline())  # printed when both sockets accept
        control.connect(ready["control"])
        yield ready["drives"]["vda"], Qmp(control)
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
    assert program.wait() == 0
    assert (tmp_path / "disk.img").read_bytes() == (tmp_path / "source.img").read_bytes()
