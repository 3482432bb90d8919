# SPDX-License-Identifier: MIT
"""What people type who come from QEMU, nbdkit or elsewhere, and what it is called here.

An answer is a clause that goes behind a message, as the ones of `qapi.nearest` do.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from typing import Final

from blockcore.qapi.nearest import Meanings, containing, either, nearest

_PLACES = ("node-name", "device", "node")
_JOBS = ("job-id", "id", "device")

KEYS: Final[Meanings] = {
    "after": ("nth",),
    "bytes": ("length", "size"),
    "device": (*_PLACES, "id"),
    "bitmap": ("name",),
    "dest": ("target",),
    "destination": ("target",),
    "drive": _PLACES,
    "driver": ("driver", "format"),
    "error": ("errno",),
    "export": _PLACES,
    "file": ("file", "snapshot-file", "target"),
    "filename": ("filename", "snapshot-file", "target"),
    "fmt": ("format",),
    "format": ("driver",),
    "from": ("offset", "top"),
    "id": ("device", "node-name", "job-id"),
    "job": _JOBS,
    "job-id": _JOBS,
    "len": ("length",),
    "name": ("id", "node-name", "device", "node"),
    "node": _PLACES,
    "node-name": ("device", "node", "target"),
    "on-error": ("on-source-error", "on-target-error"),
    "op": ("iotype",),
    "operation": ("iotype",),
    "probability": ("rate",),
    "skip": ("after",),
    "for": ("not-after-ms",),
    "latency": ("delay-ms",),
    "latency-ms": ("delay-ms",),
    "lose": ("action",),
    "until": ("not-after-ms",),
    "snapshot": ("overlay", "snapshot-file"),
    "start": ("offset",),
    "times": ("count",),
    "type": ("iotype", "action"),
}
"""What members of QMP commands are called elsewhere, or in other commands."""

VALUES: Final[Meanings] = {
    "fsync": ("flush",),
    "pause": ("stop",),
    "sync": ("flush",),
    "trim": ("discard",),
    "unmap": ("discard",),
    "zero": ("write-zeroes",),
    "zeroes": ("write-zeroes",),
    "zeros": ("write-zeroes",),
    "bad-block": ("badblock",),
    "fail": ("error",),
    "latency": ("delay",),
    "lie": ("drop",),
    "lose": ("drop",),
    "lost": ("drop",),
    "slow": ("delay",),
    "tear": ("torn",),
    "torn-write": ("torn",),
}
"""What values are called elsewhere."""

_QMP_WORDS: Final[Meanings] = {
    "change-policy": ("x-drive-set-policy",),
    "continue": ("cont",),
    "commit": ("block-commit",),
    "exit": ("quit",),
    "extend": ("x-volume-extend",),
    "inject": ("x-fault-add",),
    "inject-error": ("x-fault-add",),
    "introspect": ("query-qmp-schema",),
    "pause": ("stop",),
    "power-cycle": ("system_reset",),
    "reset": ("system_reset",),
    "resize": ("block_resize",),
    "resume": ("cont",),
    "schema": ("query-qmp-schema",),
    "set-policy": ("x-drive-set-policy",),
    "shutdown": ("quit",),
    "start": ("cont",),
    "status": ("query-status",),
    "watchdog-set-action": ("set-action",),
    "drives": ("query-block",),
    "fault-list": ("x-query-faults",),
    "faults": ("x-query-faults",),
    "job-list": ("query-jobs",),
    "job-stop": ("job-pause",),
    "jobs": ("query-jobs",),
    "list-drives": ("query-block",),
    "list-faults": ("x-query-faults",),
    "list-jobs": ("query-jobs",),
    "list-nodes": ("query-named-block-nodes",),
    "nodes": ("query-named-block-nodes",),
    "query-nodes": ("query-named-block-nodes",),
    "query-faults": ("x-query-faults",),
}
"""Other words for QMP commands."""

_MEDIA = "drives have no removable media"
_DEVICES = "devices are there from start to end: serve device=virtio-blk,drive=ID"
_SERVER = "the NBD server runs from start to end: serve --nbd SOCKET, or --port N"
_EXPORTS = "each drive is an export from start to end: serve drive=..., or device= for a node"
_GUEST = "there is no guest"
_SNAPSHOTS = "there are no internal snapshots: blockdev-snapshot-sync makes an overlay"
_FAULTS = "faults are rules: x-fault-add node-name=..."
_OBJECTS = "there are no objects: block_set_io_throttle has group= for limits in common"
_CREATE = (
    "qemu-img create makes images, and so do drive-mirror, drive-backup and"
    " blockdev-snapshot-sync where mode is absolute-paths"
)

_NOT_HERE: Final = {
    "block-export-add": _EXPORTS,
    "block-export-del": _EXPORTS,
    "blockdev-change-medium": _MEDIA,
    "blockdev-close-tray": _MEDIA,
    "blockdev-create": _CREATE,
    "blockdev-insert-medium": _MEDIA,
    "blockdev-open-tray": _MEDIA,
    "blockdev-remove-medium": _MEDIA,
    "blockdev-snapshot-delete-internal-sync": _SNAPSHOTS,
    "blockdev-snapshot-internal-sync": _SNAPSHOTS,
    "change": _MEDIA,
    "chardev-add": "the control socket is there from start to end: serve control=SOCKET",
    "device_add": _DEVICES,
    "device_del": _DEVICES,
    "drive_add": "drives are there from start to end: serve drive=...; nodes come by blockdev-add",
    "drive_del": "drives are there from start to end; nodes go by blockdev-del",
    "eject": _MEDIA,
    "human-monitor-command": "there is no monitor for people",
    "info": "there is no monitor for people: query-status, query-block and others tell it",
    "loadvm": _SNAPSHOTS,
    "migrate": "there is no migration of a machine",
    "nbd-server-add": _EXPORTS,
    "nbd-server-remove": _EXPORTS,
    "nbd-server-start": _SERVER,
    "nbd-server-stop": _SERVER,
    "netdev_add": _GUEST,
    "object-add": _OBJECTS,
    "object-del": _OBJECTS,
    "qom-get": "there is no tree of objects",
    "qom-list": "there is no tree of objects",
    "qom-set": "there is no tree of objects",
    "query-block-exports": f"{_EXPORTS}; query-block lists the drives",
    "query-cpus": _GUEST,
    "query-cpus-fast": _GUEST,
    "query-kvm": _GUEST,
    "query-machines": _GUEST,
    "query-memory-devices": _GUEST,
    "query-migrate": "there is no migration of a machine",
    "query-pci": _GUEST,
    "savevm": _SNAPSHOTS,
    "screendump": _GUEST,
    "send-key": _GUEST,
    "snapshot-delete": _SNAPSHOTS,
    "snapshot-load": _SNAPSHOTS,
    "snapshot-save": _SNAPSHOTS,
    "system_powerdown": f"{_GUEST} to be told: quit ends the machine",
    "system_wakeup": _GUEST,
    "x-blockdev-change": "blockdev-reopen gives a node another child",
    "x-corrupt": f"{_FAULTS} action=corrupt",
    "x-disconnect": f"{_FAULTS} action=disconnect",
    "x-fault-delay": f"{_FAULTS} action=delay delay-ms=...",
    "x-fault-hang": f"{_FAULTS} action=hang",
    "x-inject-error": f"{_FAULTS} errno=...",
}
"""Commands of QEMU, and some that might be here, each with what this machine has instead."""

LIST = "faultline qmp --list"


def qmp_name(typed: str, known: Collection[str]) -> str | None:
    """Return the QMP command that was probably meant."""
    return nearest(typed, known, _QMP_WORDS)


def qmp_command(typed: str, known: Collection[str]) -> str:
    """Return the clause for a QMP command that the server does not know."""
    if typed.lstrip().startswith("{"):
        return f": COMMAND is a name and its arguments are KEY=VALUE{_as_words(typed)}"
    if typed.lower() in _NOT_HERE and typed.lower() not in known:
        return f": {_NOT_HERE[typed.lower()]}"
    name = qmp_name(typed, known)
    if name is not None:
        return f", did you mean '{name}'?"
    alike = containing(typed, known)
    return f", did you mean {either([f'{one!r}' for one in alike])}?" if alike else ""


def _as_words(text: str) -> str:
    """Return a clause with the command line for a message in JSON; empty if it is no message."""
    try:
        message = json.loads(text)
        words = [message["execute"]]
        for key, value in message.get("arguments", {}).items():
            words.append(f"{key}={value if isinstance(value, str) else json.dumps(value)}")
        line = shlex.join(words)
    except (ValueError, KeyError, AttributeError, TypeError):
        return ""
    return f": faultline qmp {line}"
