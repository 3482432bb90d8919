# SPDX-License-Identifier: MIT
"""The parser of ``drive=``: QEMU's ``-drive``, from text to a frozen `DriveConfig`.

Checks are made in the order of QEMU's drive_new and blockdev_init, so that of
several mistakes this parser reports the one that QEMU reports.  Options that are
no properties of the drive define its nodes (`nodes/definitions/flat_options.py`).
Some things that QEMU accepts are refused: interfaces without error policies,
media=cdrom, index, bus, unit, snapshot=on, and drives without a medium.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from blockcore.config.policy_options import take_on_stop, take_retry
from blockcore.nodes.definitions.flat_options import open_options
from blockcore.nodes.definitions.options import BlockdevOptions, BlockdevOptionsVolatileCache
from blockcore.nodes.definitions.structs import BlockdevAioOptions
from blockcore.qapi.keyval import parse_opts, well_formed_id
from blockcore.qapi.names import (
    BlockdevDetectZeroesOptions,
    DeviceOnError,
    OnStop,
    QmpError,
    Size,
)
from blockcore.qapi.record import dataclass
from blockcore.qapi.texts import opt_bool, opt_number, opt_size
from blockcore.rules.policy import DEFAULT_RETRY, Retry, parse_rerror, parse_werror
from blockcore.rules.throttle import Limit, ThrottleConfig

DEFAULT_INTERFACE: Final = "virtio"

UNITS_PER_BUS: Final = {"ide": 2, "none": 0, "scsi": 7, "virtio": 0}
"""The interfaces that are accepted, and how many drives a bus of each has; 0 for no buses."""

_OTHER_INTERFACES: Final = frozenset({"floppy", "mtd", "pflash", "sd", "xen"})
"""The interfaces that QEMU has besides, which take no error policies."""

_BUCKETS: Final = tuple(
    f"{kind}-{way}" for kind in ("iops", "bps") for way in ("total", "read", "write")
)


def _aliases() -> dict[str, str]:
    """Return today's name for each older name of an option (qemu_opt_rename in drive_new).

    ``bps_rd_max``, for example, is now ``throttling.bps-read-max``.
    """
    short = {"total": "", "read": "_rd", "write": "_wr"}
    aliases = {}
    for suffix, old_suffix in (("", ""), ("-max", "_max")):
        for bucket in _BUCKETS:
            kind, way = bucket.split("-")
            aliases[f"{kind}{short[way]}{old_suffix}"] = f"throttling.{bucket}{suffix}"
    aliases["iops_size"] = "throttling.iops-size"
    aliases["group"] = "throttling.group"
    aliases["readonly"] = "read-only"
    return aliases


ALIASES: Final = _aliases()

CACHE_MODES: Final = {
    "off": (True, True, False),
    "none": (True, True, False),
    "writeback": (True, False, False),
    "unsafe": (True, False, True),
    "directsync": (False, True, False),
    "writethrough": (False, False, False),
}
"""cache= as (cache.writeback, cache.direct, cache.no-flush) (bdrv_parse_cache_mode)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveConfig:
    """A drive, parsed, with the definition of its root node in `options`.

    `interface` is ``if=``; a drive with ``none`` needs a ``device=``.
    With `copy_on_read`, reads of data below the root write it to the root.
    Without `writeback`, every write is followed by a flush.  `throttle` is None
    if nothing is limited; `throttle_group` is the drive's id unless given.
    """

    id: str
    interface: str
    rerror: DeviceOnError
    werror: DeviceOnError
    retry: Retry = DEFAULT_RETRY
    on_stop: OnStop = OnStop.HOLD
    read_only: bool
    writeback: bool
    detect_zeroes: BlockdevDetectZeroesOptions
    throttle: ThrottleConfig | None
    throttle_group: str
    account_invalid: bool
    account_failed: bool
    options: BlockdevOptions
    copy_on_read: bool

    @property
    def is_volatile(self) -> bool:
        """Whether the root node is the volatile cache of ``cache.x-volatile``."""
        return isinstance(self.options, BlockdevOptionsVolatileCache)


def interface_of(text: str) -> str:
    """Return the value of ``if=`` in a drive's text, without checking that there is such one."""
    return parse_opts(text).get("if", DEFAULT_INTERFACE)


def automatic_id(interface: str, index: int) -> str:
    """Return QEMU's id for drive number `index` of an interface, such as ``ide0-hd1``."""
    units = UNITS_PER_BUS.get(interface, 0)
    return f"{interface}{index // units}-hd{index % units}" if units else f"{interface}{index}"


def parse_drive(text: str, default_id: str) -> DriveConfig:
    """Parse the value of ``drive=``; raises QmpError in QEMU's words.

    `default_id` is the drive's id if the text gives none.
    """
    opts = parse_opts(text)
    _rename_aliases(opts)
    writeback = _cache_mode(opts)
    read_only = _flag(opts, "read-only")
    copy_on_read = _copy_on_read(opts, read_only)
    _refuse_places(opts)
    interface = _interface(opts)
    drive_id = opts.pop("id", default_id)
    if not well_formed_id(drive_id):
        raise QmpError("Parameter 'id' expects an identifier")
    account_invalid = _flag(opts, "stats-account-invalid", default=True)
    account_failed = _flag(opts, "stats-account-failed", default=True)
    _check_aio(opts)
    group = opts.pop("throttling.group", drive_id)
    throttle = _throttle(opts)
    _choose_driver(opts)
    volatile = _volatile(opts)
    werror = parse_werror(opts.pop("werror", "enospc"))
    rerror = parse_rerror(opts.pop("rerror", "report"))
    retry = take_retry(opts, (rerror, werror)) or DEFAULT_RETRY
    on_stop = take_on_stop(opts) or OnStop.HOLD
    options = volatile(_root(opts, read_only))
    return DriveConfig(
        id=drive_id,
        interface=interface,
        rerror=rerror,
        werror=werror,
        retry=retry,
        on_stop=on_stop,
        read_only=read_only,
        writeback=writeback,
        detect_zeroes=options.detect_zeroes or BlockdevDetectZeroesOptions.OFF,
        throttle=throttle if throttle.enabled else None,
        throttle_group=group,
        account_invalid=account_invalid,
        account_failed=account_failed,
        options=options,
        copy_on_read=copy_on_read,
    )


def _rename_aliases(opts: dict[str, str]) -> None:
    for alias, name in ALIASES.items():
        if alias not in opts:
            continue
        if name in opts:
            raise QmpError(f"'{name}' and its alias '{alias}' can't be used at the same time")
        opts[name] = opts.pop(alias)


def _cache_mode(opts: dict[str, str]) -> bool:
    """Replace ``cache=`` by those ``cache.`` options that are not given.

    Returns whether to write back, without a flush after every write.
    """
    mode = opts.pop("cache", None)
    if mode is not None:
        if mode not in CACHE_MODES:
            raise QmpError("invalid cache option")
        for key, on in zip(("writeback", "direct", "no-flush"), CACHE_MODES[mode], strict=True):
            opts.setdefault(f"cache.{key}", "on" if on else "off")
    return _flag(opts, "cache.writeback", default=True)


def _flag(opts: dict[str, str], name: str, *, default: bool = False) -> bool:
    text = opts.pop(name, None)
    return default if text is None else opt_bool(text, name)


def _copy_on_read(opts: dict[str, str], read_only: bool) -> bool:
    """Return whether to copy on read: never on a read-only drive.

    QEMU disables it there with a warning (drive_new).  There is no warning here.
    """
    copy_on_read = _flag(opts, "copy-on-read")
    if _flag(opts, "snapshot"):
        raise QmpError("snapshot=on is not supported")
    return copy_on_read and not read_only


def _refuse_places(opts: dict[str, str]) -> None:
    for name in ("bus", "unit", "index"):
        if name in opts:
            opt_number(opts[name], name)
            raise QmpError(f"Parameter '{name}' is not supported: drives have no place on a bus")


def _interface(opts: dict[str, str]) -> str:
    media = opts.pop("media", "disk")
    if media == "cdrom":
        raise QmpError("media=cdrom is not supported")
    if media != "disk":
        raise QmpError(f"'{media}' invalid media")
    interface = opts.pop("if", DEFAULT_INTERFACE)
    if interface in UNITS_PER_BUS:
        return interface
    if interface not in _OTHER_INTERFACES:
        raise QmpError(f"unsupported bus type '{interface}'")
    for policy in ("werror", "rerror"):
        if policy in opts:
            raise QmpError(f"{policy} is not supported by this bus type")
    raise QmpError(f"if={interface} is not supported")


def _volatile(opts: dict[str, str]) -> Callable[[BlockdevOptions], BlockdevOptions]:
    """Return what puts a volatile cache over the root, if ``cache.x-volatile`` asks for it.

    The root keeps its node-name; zeroes are detected above the cache.
    """
    on = _flag(opts, "cache.x-volatile")
    size = opts.pop("cache.x-volatile-size", None)
    if not on:
        if size is not None:
            raise QmpError("'cache.x-volatile-size' needs cache.x-volatile=on")
        return lambda root: root
    size_bytes = None if size is None else Size(opt_size(size, "cache.x-volatile-size"))
    if size_bytes == 0:
        raise QmpError("Parameter 'cache.x-volatile-size' expects a value greater than zero")
    return lambda root: BlockdevOptionsVolatileCache(
        driver="x-volatile-cache",
        file=replace(root, detect_zeroes=None),
        size=size_bytes,
        discard=root.discard,
        cache=root.cache,
        read_only=root.read_only,
        auto_read_only=root.auto_read_only,
        detect_zeroes=root.detect_zeroes,
    )


def _check_aio(opts: dict[str, str]) -> None:
    """Check ``aio=`` and drop it: there is one kind of I/O."""
    if opts.pop("aio", "threads") not in tuple(BlockdevAioOptions):
        raise QmpError("invalid aio option")


def _throttle(opts: dict[str, str]) -> ThrottleConfig:
    def number(name: str, default: int) -> int:
        text = opts.pop(f"throttling.{name}", None)
        return default if text is None else opt_number(text, f"throttling.{name}")

    limits = {
        bucket.replace("-", "_"): Limit(
            number(bucket, 0), number(f"{bucket}-max", 0), number(f"{bucket}-max-length", 1)
        )
        for bucket in _BUCKETS
    }
    config = ThrottleConfig(iops_size=number("iops-size", 0), **limits)
    config.validate()
    return config


def _choose_driver(opts: dict[str, str]) -> None:
    if "format" in opts:
        if "driver" in opts:
            raise QmpError("Cannot specify both 'driver' and 'format'")
        opts["driver"] = opts.pop("format")


def _root(opts: dict[str, str], read_only: bool) -> BlockdevOptions:
    """Return the definition of the root node; the other options of `opts` are the node's.

    Unlike a node of ``-blockdev``, it has auto-read-only=on (blockdev_init).
    """
    name = opts.pop("file", None) or None
    if name is None and not opts:
        raise QmpError("Device needs media, but drive is empty")
    defaults = {"read-only": "on" if read_only else "off", "auto-read-only": "on"}
    return open_options(defaults | opts, name)
