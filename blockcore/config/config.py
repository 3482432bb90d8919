# SPDX-License-Identifier: MIT
"""The parser of nbdkit's KEY=VALUE pairs: from text to a frozen `Config`.

======================  =====================================================
drive=                  QEMU's -drive; may be repeated
blockdev=               QEMU's -blockdev, keyval or JSON; may be repeated
device=                 QEMU's -device for block devices; may be repeated
fault=                  arguments of x-fault-add, keyval or JSON; may be repeated
faults=FILE             a file of such rules, one on each line; may be repeated
control=PATH            the path at which the QMP socket is bound
prelaunch=on|off        start stopped, as with QEMU's -S (off)
job-error-check=        strict (the default) refuses a job's on-error=stop on a
                        device whose own policies do not stop; modern does not
qemu=7.2|10.0           the release of QEMU whose answers are given (10.0)
x-sticky-io-status=     on: `cont` leaves the io-status of anonymous drives as it
                        is, as QEMU does (off)
seed=NUMBER             the seed of the random numbers of rules with a rate
name=TEXT               the answer of query-name
record=FILE             the file to which everything is recorded
record-data=on|off      whether that has what is written, or digests only (on)
allow-backing=DIR[:DIR...]|none
                        the directories of the backing files that images may
                        name (any)
======================  =====================================================

Nothing is opened here, and no file is looked at.  Messages are QEMU's where it
has them.  They have one line each and do not name the pair: the caller does
(`ConfigParser.pair`).
"""

from __future__ import annotations

from collections.abc import Iterable

from blockcore.bql.later import later
from blockcore.config.device_config import DRIVERS, DeviceConfig, parse_device
from blockcore.config.drive_config import DriveConfig, automatic_id, interface_of, parse_drive
from blockcore.config.sockets import check_socket_path
from blockcore.faults.options import FaultOptions
from blockcore.nodes.definitions.allowed_backing import ANY, AllowedBacking, parse_allowed
from blockcore.nodes.definitions.options import (
    BlockdevOptions,
    check_node_name,
    parse_blockdev_options,
)
from blockcore.qapi.json.stream import parse_json
from blockcore.qapi.keyval import parse_keyval
from blockcore.qapi.names import QmpError
from blockcore.qapi.qemu import LATEST, Release, release_of
from blockcore.qapi.record import dataclass
from blockcore.qapi.texts import opt_bool, opt_number

_parse_fault = later("blockcore.faults.lines:parse_fault")

REPEATED = frozenset({"blockdev", "device", "drive", "fault", "faults"})
"""Keys that may be given more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A machine as its user describes it; sequences are in the order of the command line."""

    drives: tuple[DriveConfig, ...] = ()
    blockdevs: tuple[BlockdevOptions, ...] = ()
    devices: tuple[DeviceConfig, ...] = ()
    faults: tuple[FaultOptions, ...] = ()
    fault_files: tuple[str, ...] = ()
    control: str | None = None
    prelaunch: bool = False
    job_error_check_modern: bool = False
    sticky_io_status: bool = False
    qemu: Release = LATEST
    seed: int | None = None
    name: str | None = None
    record: str | None = None
    record_data: bool = True
    allow_backing: AllowedBacking = ANY


class ConfigParser:
    """The parser of all pairs: `add` each, then `finish`.

    Pairs are parsed in `finish` only, because their meaning depends on the key
    `qemu`, which may come last.  After an error, `pair` is the pair (KEY=VALUE)
    that it is about.
    """

    def __init__(self) -> None:
        self.pair = ""
        self._given: list[tuple[str, str]] = []
        self._qemu = LATEST
        self._drives: list[DriveConfig] = []
        self._blockdevs: list[BlockdevOptions] = []
        self._devices: list[tuple[str, DeviceConfig]] = []
        self._faults: list[FaultOptions] = []
        self._fault_files: list[str] = []
        self._machine: dict[str, str] = {}
        self._once: set[str] = set()
        self._allow_backing = ANY

    def add(self, key: str, value: str) -> None:
        """Take a pair; raises QmpError only for `qemu` with an unknown release."""
        self.pair = f"{key}={value}"
        self._given.append((key, value))
        if key == "qemu":
            self._qemu = release_of(value)

    def _check(self, key: str, value: str) -> None:
        self.pair = f"{key}={value}"
        if key in self._once:
            raise QmpError(f"Parameter '{key}' is given twice")
        self._add(key, value)
        if key not in REPEATED:
            self._once.add(key)

    def _add(self, key: str, value: str) -> None:
        # A case for each key.  Values that `finish` converts are only checked here, so that the
        # error comes with its pair.
        match key:
            case "drive":
                self._add_drive(value)
            case "blockdev":
                self._blockdevs.append(_parse_blockdev(value, self._qemu))
            case "device":
                self._add_device(value)
            case "fault":
                self._faults.append(_parse_fault()(value))
            case "faults":
                self._fault_files.append(value)
            case "control":
                check_socket_path(value)
                self._machine[key] = value
            case "name":
                self._machine[key] = value
            case "record":
                if not value:
                    raise QmpError("Parameter 'record' expects the name of a file")
                self._machine[key] = value
            case "allow-backing":
                self._allow_backing = parse_allowed(value)
                self._machine[key] = value
            case "prelaunch" | "record-data":
                opt_bool(value, key)
                self._machine[key] = value
            case "x-sticky-io-status":
                opt_bool(value, key)
                self._machine[key] = value
            case "job-error-check":
                if value not in ("strict", "modern"):
                    raise QmpError(
                        f"Parameter '{key}' does not accept value '{value}'"
                        " (it may be strict or modern)"
                    )
                self._machine[key] = value
            case "qemu":
                """`add` has taken its value already."""
            case "seed":
                if value.strip().startswith("-"):
                    raise QmpError(f"Parameter '{key}' expects a non-negative number")
                opt_number(value, key)
                self._machine[key] = value
            case _:
                raise QmpError(f"Invalid parameter '{key}'")

    def finish(self) -> Config:
        """Parse all pairs, in order, and return the configuration.

        Raises QmpError if a pair is wrong, or if devices and drives do not fit together.
        """
        for key, value in self._given:
            self._check(key, value)
        self._connect()
        given = self._machine
        return Config(
            drives=tuple(self._drives),
            blockdevs=tuple(self._blockdevs),
            devices=tuple(device for _, device in self._devices),
            faults=tuple(self._faults),
            fault_files=tuple(self._fault_files),
            control=given.get("control"),
            prelaunch=opt_bool(given.get("prelaunch", "off"), "prelaunch"),
            sticky_io_status=opt_bool(given.get("x-sticky-io-status", "off"), "x-sticky-io-status"),
            qemu=self._qemu,
            job_error_check_modern=given.get("job-error-check") == "modern",
            seed=opt_number(given["seed"], "seed") if "seed" in given else None,
            name=given.get("name"),
            record=given.get("record"),
            record_data=opt_bool(given.get("record-data", "on"), "record-data"),
            allow_backing=self._allow_backing,
        )

    def _add_drive(self, text: str) -> None:
        interface = interface_of(text)
        index = sum(drive.interface == interface for drive in self._drives)
        drive = parse_drive(text, automatic_id(interface, index))
        if any(drive.id == other.id for other in self._drives):
            raise QmpError(f"Duplicate ID '{drive.id}' for drive")
        self._drives.append(drive)

    def _add_device(self, text: str) -> None:
        device = parse_device(text, self._qemu)
        if device.id is not None and any(device.id == other.id for _, other in self._devices):
            raise QmpError(f"Duplicate ID '{device.id}' for device")
        self._devices.append((self.pair, device))

    def _connect(self) -> None:
        """Check that every device names a drive or a node, and that no drive has two devices.

        Nodes of later pairs count as well: QEMU makes all nodes before devices.
        """
        drives = {drive.id: drive for drive in self._drives}
        definitions = [drive.options for drive in self._drives] + self._blockdevs
        nodes = {name for options in definitions for name in options.node_names()}
        used = set()
        for pair, device in self._devices:
            self.pair = pair
            name = device.drive
            if name in drives:
                if name in used:
                    raise QmpError(f"Drive '{name}' is already in use by another device")
                used.add(name)
                _check_connection(drives[name], device)
            elif name not in nodes:
                raise QmpError(
                    f"Property '{DRIVERS[device.driver]}.drive' can't find value '{name}'"
                )


def _check_connection(drive: DriveConfig, device: DeviceConfig) -> None:
    """Raise QmpError if a device cannot have that drive (set_drive_helper)."""
    if drive.interface != "none":
        raise QmpError(
            f"Drive '{drive.id}' is already in use because it has been automatically connected"
            " to another device (did you need 'if=none' in the drive options?)"
        )
    # An IDE disk has no read-only mode (ide_dev_initfn); the others then are read-only disks.
    if drive.read_only and device.driver == "ide-hd":
        raise QmpError("Block node is read-only")


def parse_config(pairs: Iterable[tuple[str, str]]) -> Config:
    """Parse all pairs; raises QmpError for the first error."""
    parser = ConfigParser()
    for key, value in pairs:
        parser.add(key, value)
    return parser.finish()


def _parse_blockdev(text: str, qemu: Release) -> BlockdevOptions:
    if text.startswith("{"):
        options = parse_blockdev_options(parse_json(text), absent=qemu.absent)
    else:
        options = parse_blockdev_options(
            parse_keyval(text, "driver"), keyval=True, absent=qemu.absent
        )
    if options.node_name is None:
        raise QmpError("'node-name' must be specified for the root node")
    for name in options.node_names():
        check_node_name(name)
    return options
