# SPDX-License-Identifier: MIT
"""What the command line says behind QEMU's words, which often do not name the right answers.

QMP replies have QEMU's words alone.  This module is imported when there was an
error, since it takes time that a start does not have.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Final

from blockcore.config.device_config import DRIVERS, PROPERTIES
from blockcore.config.drive_config import ALIASES, CACHE_MODES, UNITS_PER_BUS
from blockcore.config.fault_hints import fault_hint
from blockcore.config.policy_options import ON_STOP, RETRY_OPTIONS
from blockcore.nodes.definitions.blkdebug_config import RULE_KEYS
from blockcore.nodes.definitions.option_texts import COMMON, own_texts
from blockcore.nodes.definitions.options import BLOCKDEV_OPTIONS
from blockcore.qapi.keyval import parse_opts
from blockcore.qapi.names import (
    BlkdebugEvent,
    BlkdebugIOType,
    BlockdevDetectZeroesOptions,
    DeviceOnError,
    OnStop,
    QmpError,
)
from blockcore.qapi.nearest import as_size, did_you_mean, either, nearest, right_answers

MACHINE_KEYS: Final = (
    *("drive", "blockdev", "device", "fault", "faults", "control", "prelaunch", "job-error-check"),
    *("qemu", "seed", "name", "record", "record-data", "allow-backing", "x-sticky-io-status"),
)

EXAMPLE: Final = "drive=id=vda,file=disk.img,rerror=stop"

_DRIVE_OPTIONS: Final = frozenset(
    {
        *("id", "file", "format", "driver", "rerror", "werror", "if", "cache", "aio"),
        *("copy-on-read", "stats-account-invalid", "stats-account-failed", "backing"),
        *("cache.x-volatile", "cache.x-volatile-size"),
        *(*RETRY_OPTIONS, ON_STOP, *ALIASES, *ALIASES.values(), *COMMON),
        *(*own_texts("raw"), *own_texts("qcow2")),
    }
)
"""The options of drive=, with those of the format below."""

_DRIVERS: Final = frozenset(BLOCKDEV_OPTIONS.variants)

_LISTENING: Final = {"address", "host", "nbd", "port", "socket", "listen", "unix"}
"""Keys by which people mean the NBD server's address."""

_OPTION_WORDS: Final = {
    "errors": ("werror",),
    "export": ("id",),
    "filename": ("file",),
    "fmt": ("format",),
    "name": ("id",),
    "on-error": ("werror",),
    "on-stop": (ON_STOP,),
    "path": ("file",),
    "policy": ("werror",),
    "timeout": ("retry-timeout",),
    "type": ("format",),
}

_STOP: Final = {"pause": ("stop",), "halt": ("stop",), "continue": ("ignore",)}


def hint(desc: str, pair: str = "", where: str = "") -> str:
    """Return a clause that goes behind the message `desc`, or an empty text.

    `pair` is the KEY=VALUE that the message is about, if any, and `where` the place
    in a file.
    """
    if pair.startswith("fault") and "'errno'" not in desc and (about := fault_hint(desc)):
        return f"{about} ({where})" if where else about
    for pattern, answer in _ANSWERS:
        if match := re.fullmatch(pattern, desc):
            found = answer(match, pair)
            break
    else:
        found = ""
    return f"{found} ({where})" if where else found


def _drivers(match: re.Match[str], _pair: str) -> str:
    return right_answers(match[1], sorted(BLOCKDEV_OPTIONS.variants))


def _policies(match: re.Match[str], _pair: str) -> str:
    known = ("report", "ignore", "stop", *(("enospc",) if match[2] == "write" else ()), "retry")
    return right_answers(match[1], known, _STOP)


def _models(match: re.Match[str], _pair: str) -> str:
    return f": it is {either(DRIVERS)}"


def _cache_modes(_match: re.Match[str], pair: str) -> str:
    typed = _options(pair).get("cache", "")
    return f" '{typed}'{right_answers(typed, list(CACHE_MODES))}"


def _interfaces(match: re.Match[str], _pair: str) -> str:
    return right_answers(match[1], list(UNITS_PER_BUS))


def _machine_key(match: re.Match[str], pair: str) -> str:
    key, value = match[1], pair.partition("=")[2]
    if key == match[0].partition("'")[2][:-1] and "=" in key:
        return _blanks(key)
    if (name := nearest(key, MACHINE_KEYS)) is not None:
        return f", did you mean '{name}='?"
    if key.lower() in _LISTENING:
        return ": the NBD server listens at --nbd SOCKET or --port N"
    if key.lower() in ("monitor", "qmp", "chardev", "mon"):
        return ": the control socket is control=SOCKET"
    if drive_option(key):
        return f": it is an option of a drive, as in drive=id=vda,file=disk.img,{key}={value}"
    if key in ("image", "img", "disk", "filename", "path"):
        return f": it belongs to a drive, as in drive=id=vda,file={value}"
    if key in ("size", "latency-ns", "read-zeroes"):
        return f": it is an option of a drive, as in drive=id=vda,driver=null-co,{key}={value}"
    known = {name for keys in RULE_KEYS.values() for name in keys}
    return did_you_mean(key, known) if pair.partition("=")[0] not in (key, "") else ""


def drive_option(name: str) -> bool:
    """Return whether an option of this name belongs into a drive=."""
    return name in _DRIVE_OPTIONS or name.partition(".")[0] in ("file", "throttling", "cache")


def _blanks(text: str) -> str:
    """Return the answer to a line of a blkdebug file that lacks its blanks."""
    key, _, value = text.partition("=")
    return f": blanks belong around =, as in {key} = {value}"


def _no_file(_match: re.Match[str], pair: str) -> str:
    key, _, value = pair.partition("=")
    if key != "drive":
        return ""
    if re.search(r",\s", value):
        return ": there is a blank after a comma"
    first = value.partition(",")[0]
    if "=" not in value and ":" in first:
        return f": options are NAME=VALUE, as in {EXAMPLE}"
    if "=" not in first and first:
        return f": write drive=file={value}"
    if (named := _options(pair).keys() & {"filename", "path", "image"}) and (name := min(named)):
        return f": write file= for {name}="
    return f": add file=, as in {EXAMPLE}, or driver=null-co,size=10M"


def _no_medium(_match: re.Match[str], pair: str) -> str:
    return f": add a file, as in {EXAMPLE}"


def _option(match: re.Match[str], pair: str) -> str:
    """Return the answer to an option that a driver does not have."""
    driver, typed = match[1], match[2]
    if typed != typed.strip():
        return ": there is a blank in front of it"
    own = own_texts(driver)
    known = {*_DRIVE_OPTIONS, *own} if driver in ("raw", "qcow2") else {*COMMON, *own}
    if typed.startswith("throttle."):
        return ": it is throttling.bps-total, throttling.iops-read and so on"
    if (name := nearest(typed, known, _OPTION_WORDS)) is not None:
        return f", did you mean '{name}'?"
    if typed in ("serial", "bootindex", "addr", "bus"):
        return ": NBD clients see nothing of it"
    if typed.startswith("throttling."):
        return ": it is throttling.bps-total, throttling.iops-read and so on"
    if (name := nearest(typed, own_texts("file"))) is not None:
        return f", did you mean 'file.{name}'?"
    if typed in MACHINE_KEYS:
        return f": it is a key of its own, {typed}=..."
    if typed in ("config", "rules"):
        return ", as in file=blkdebug:faults.conf:disk.img"
    if typed.startswith(("latency", "delay", "hang", "error", "errno", "fault")):
        return ": faults come by fault=, or 'faultline qmp x-fault-add' while the machine runs"
    return ""


def _number(match: re.Match[str], pair: str) -> str:
    """Return the answer to a number that is none, of an option with a name of QEMU's."""
    wanted = match[1]
    names = [wanted, *(alias for alias, name in ALIASES.items() if name == wanted)]
    options = _options(pair)
    for name in names:
        if name in options:
            return f", not {name}={options[name]}{_without_suffix(name, options[name])}"
    return ""


def _without_suffix(name: str, text: str) -> str:
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
    match = re.fullmatch(r"([0-9]+)([kmgtKMGT])(i?[bB])?", text)
    return "" if match is None else f": write {name}={int(match[1]) * units[match[2].lower()]}"


def _size(match: re.Match[str], pair: str) -> str:
    typed = _options(pair).get(match[1])
    shown = "" if typed is None else f", not '{typed}'"
    return f"{shown}{as_size(typed or '') or ': such as 1048576, 10M or 1G'}"


def _file_missing(_match: re.Match[str], pair: str) -> str:
    options = _options(pair)
    if "file" in options and options.get("driver") == "file":
        return f": write filename={options['file']}"
    return ""


def _no_node(match: re.Match[str], pair: str) -> str:
    """Return the answer to a name of a node that might have been meant as a file's."""
    if pair.startswith("blockdev="):
        for key in ("file", "image", "backing"):
            if _options(pair).get(key) == match[1]:
                return (
                    f": {key}= is another node; for a file write"
                    f" {key}.driver=file,{key}.filename={match[1]}"
                )
    return ""


def _child_missing(_match: re.Match[str], pair: str) -> str:
    options = _options(pair)
    if "filename" in options and options.get("driver") in ("raw", "qcow2"):
        return f": write file.driver=file,file.filename={options['filename']}"
    return ""


def _home(match: re.Match[str], _pair: str) -> str:
    if match[1].startswith("~"):
        return ": the shell expands ~ at the beginning of a word only, write $HOME"
    return ""


def _protocol(match: re.Match[str], _pair: str) -> str:
    known = ("file", "nbd", "nbd+unix", "nbd+tcp", "blkdebug", "json")
    return f"{right_answers(match[1], known)}; a file of that name begins with ./"


def _group(match: re.Match[str], _pair: str) -> str:
    return right_answers(match[1], list(RULE_KEYS))


def _no_group(_match: re.Match[str], _pair: str) -> str:
    return ": a file of rules begins with [inject-error] or [set-state]"


def _value(match: re.Match[str], pair: str) -> str:
    """Return the answer to a value that no enum of a drive or blkdebug file has."""
    if _options(pair).get("detect-zeroes") == match[1]:
        return right_answers(match[1], list(BlockdevDetectZeroesOptions))
    return right_answers(match[1], [*BlkdebugEvent, *BlkdebugIOType])


def _errno(match: re.Match[str], _pair: str) -> str:
    if "," in match[1]:
        return ": it takes one of them; give the command once for each"
    names = set(errno.errorcode.values())
    return did_you_mean(match[1], names) or ": it is a name or a number, such as ENOSPC or 28"


def _any_errno(_match: re.Match[str], _pair: str) -> str:
    return ", such as ENOSPC or 28"


def _device_drive(match: re.Match[str], _pair: str) -> str:
    return (
        f": device= needs the id of a drive, drive=id={match[1]},if=none,..., or the"
        f" node-name of a blockdev="
    )


def _identifier(_match: re.Match[str], pair: str) -> str:
    value = pair.partition("=")[2]
    if ",," in value:
        return ": two commas are one comma of a value"
    if ";" in value:
        return ": options are separated by commas"
    return ": it begins with a letter, and goes on with letters, digits, '-', '.' and '_'"


def _unexpected(match: re.Match[str], pair: str) -> str:
    """Return the answer to a member that a node of blockdev= does not have."""
    if match[1] in ("rerror", "werror", "id"):
        return ": it is an option of device= or drive="
    own = own_texts(driver) if (driver := _options(pair).get("driver", "")) in _DRIVERS else {}
    return did_you_mean(match[1], {*COMMON, *own, "file", "driver"})


def _device_policy(match: re.Match[str], pair: str) -> str:
    if pair.startswith("device="):
        return right_answers(match[2], list(DeviceOnError), _STOP)
    return ""


def _on_stop(match: re.Match[str], _pair: str) -> str:
    return right_answers(match[1], list(OnStop))


def _property(match: re.Match[str], _pair: str) -> str:
    return right_answers(match[1], PROPERTIES, {"logical-block-size": ("logical_block_size",)})


def _driver_missing(_match: re.Match[str], pair: str) -> str:
    if pair.startswith("device="):
        return ", as in device=virtio-blk,drive=vda"
    return ", as in blockdev=driver=file,node-name=f,filename=disk.img"


def _fixed(text: str) -> Callable[[re.Match[str], str], str]:
    return lambda _match, _pair: text


def _options(pair: str) -> dict[str, str]:
    """Return the options in a pair; none if it cannot be parsed."""
    try:
        return parse_opts(pair.partition("=")[2], "driver")
    except QmpError:
        return {}


_ANSWERS: Final[tuple[tuple[str, Callable[[re.Match[str], str], str]], ...]] = (
    (r"Unknown driver '(.*)'", _drivers),
    (r"Unknown file format '(.*)'", _drivers),
    (r"Parameter 'driver' does not accept value '(.*)'", _drivers),
    (r"'(.*)' invalid (read|write) error action", _policies),
    (r"'(.*)' is not a valid device model name", _models),
    (r"invalid cache option", _cache_modes),
    (r"unsupported bus type '(.*)'", _interfaces),
    (r"Invalid parameter '(.*)'", _machine_key),
    (r"Must specify either driver or file", _no_file),
    (r"Device needs media, but drive is empty", _no_medium),
    (r"Block format '(.*)' does not support the option '(.*)'", _option),
    (r"Block protocol '(.*)' doesn't support the option '(.*)'", _option),
    (r"Parameter 'retry-.*' expects a number", _fixed(" of milliseconds, such as 1000")),
    (r"Parameter '(.*)' expects a number", _number),
    (r"Parameter '(.*)' expects a non-negative number below 2\^64", _size),
    (r"Parameter 'filename' is missing", _file_missing),
    (r"Parameter 'file' is missing", _child_missing),
    (r"Cannot find device='.*' nor node-name='(.*)'", _no_node),
    (r"(?:.*: )?Could not (?:open|create) '(.*)': No such file or directory", _home),
    (r"Unknown protocol '(.*)'", _protocol),
    (r"There is no option group '(.*)'", _group),
    (r"no group defined", _no_group),
    (r"invalid parameter value: (.*)", _value),
    (r"Parameter 'errno' does not accept value '(.*)'", _errno),
    (r"Parameter 'errno' expects the number or name of an errno", _any_errno),
    (r"Parameter 'id' expects an identifier", _identifier),
    (r"Invalid node-name: '.*'", _identifier),
    (r"Parameter '(.*)' is unexpected", _unexpected),
    (r"Parameter '(rerror|werror)' does not accept value '(.*)'", _device_policy),
    (r"Parameter 'x-on-stop' does not accept value '(.*)'", _on_stop),
    (r"Property '.*\.(.*)' not found", _property),
    (r"snapshot=on is not supported", _fixed(": qemu-img create -b makes an overlay")),
    (
        r"The 'file' block driver requires a file name",
        _fixed(", as in file.driver=file,file.filename=disk.img"),
    ),
    (r"The only allowed filename for this driver is 'null-co://'", _fixed(": it has no file")),
    (r"error parsing address '.*'", _fixed(", as in nbd:HOST:PORT or nbd:unix:PATH")),
    (r"Parameter '.*' expects (?:size|integer|uint64)", _fixed(", such as 4096")),
    (r"Parameter 'driver' is missing", _driver_missing),
    (
        r"Parameter 'server' is missing",
        _fixed(", as in server.type=unix,server.path=SOCKET"),
    ),
    (r"Parameter 'write-cache' does not accept value '.*'", _fixed(": it is on, off or auto")),
    (r"invalid aio option", _fixed(": it is threads, native or io_uring")),
    (r"Invalid discard option", _fixed(": it is unmap or ignore")),
    (r"drive property not set", _fixed(", as in device=virtio-blk,drive=vda")),
    (
        r"'node-name' must be specified for the root node",
        _fixed(", as in blockdev=driver=file,node-name=f,filename=disk.img"),
    ),
    (
        r"NBD server address missing",
        _fixed(": it is server.type=unix,server.path=SOCKET, or server.type=inet and so on"),
    ),
    (r"No valid URL specified", _fixed(", as in nbd+unix:///EXPORT?socket=PATH")),
    (
        r"blkdebug requires both config file and image path",
        _fixed(", as in blkdebug:faults.conf:disk.img"),
    ),
    (r"Failed to bind socket to .*: File exists", _fixed(": the file is no socket")),
    (r"Property '.*\.drive' can't find value '(.*)'", _device_drive),
)
