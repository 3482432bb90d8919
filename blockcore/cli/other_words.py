# SPDX-License-Identifier: MIT
"""Words of QEMU's, nbdkit's and other programs' command lines, and what is typed here instead.

What exists by now is never looked up here, so nothing here can hide it.
"""

from __future__ import annotations

from typing import Final

from blockcore.qapi.nearest import Meanings

_NBD = "the NBD server listens at --nbd SOCKET or --port N"
_CONTROL = "the control socket is --control SOCKET"
_NBDKIT = "options of nbdkit go behind --, as in serve drive=... -- --filter=delay wdelay=1"
_TLS = "write --tls-psk FILE or --tls-certificates DIR"
_BACKGROUND = "write --daemonize"
_LOG = "write --log-file FILE, --log-level LEVEL"
_GUEST = "every NBD client is the guest; there is no other, and no hardware but drives"
_NO_MEDIA = "drives have no removable media"
_JSON = "its output is JSON already"

SERVE_OPTIONS: Final = {
    "accel": _GUEST,
    "b": _BACKGROUND,
    "background": _BACKGROUND,
    "bind": "write --port N --address ADDRESS",
    "cdrom": _NO_MEDIA,
    "chardev": _CONTROL,
    "command": "write --run COMMAND",
    "config-file": "write --config FILE",
    "cpu": _GUEST,
    "D": _LOG,
    "d": _BACKGROUND,
    "daemon": _BACKGROUND,
    "debug": "write --log-level debug",
    "display": _GUEST,
    "e": "each drive is an export, called by its id",
    "enable-kvm": _GUEST,
    "exec": "write --run COMMAND",
    "export": "each drive is an export, called by its id",
    "export-name": "each drive is an export, called by its id",
    "exportname": "each drive is an export, called by its id",
    "f": "it is in the foreground without --daemonize",
    "filter": _NBDKIT,
    "foreground": "it is in the foreground without --daemonize",
    "fork": _BACKGROUND,
    "g": _GUEST,
    "h": _GUEST,
    "host": "write --port N --address ADDRESS",
    "i": "write --port N --address ADDRESS",
    "incoming": "there is no migration of a machine",
    "ip": "write --port N --address ADDRESS",
    "ipaddr": "write --port N --address ADDRESS",
    "kernel": _GUEST,
    "l": _LOG,
    "listen": _NBD,
    "log": _LOG,
    "logfile": _LOG,
    "m": _GUEST,
    "machine": _GUEST,
    "metrics": "counters are in 'faultline qmp query-blockstats'",
    "mask-handshake": _NBDKIT,
    "mon": _CONTROL,
    "monitor": _CONTROL,
    "nbd-server": _NBD,
    "netdev": _GUEST,
    "nodefaults": _GUEST,
    "newstyle": _NBDKIT,
    "no-sr": _NBDKIT,
    "nographic": _GUEST,
    "object": "drives have limits in common by throttling.group=NAME in drive=",
    "oldstyle": _NBDKIT,
    "P": "write --pidfile FILE",
    "p": "write --port N",
    "pid": "write --pidfile FILE",
    "pid-file": "write --pidfile FILE",
    "q": "write --quiet",
    "qmp": _CONTROL,
    "r": "a drive is read-only by read-only=on in drive=",
    "readconfig": "write --config FILE",
    "report": "counters are in 'faultline qmp query-blockstats'",
    "s": "write --nbd SOCKET for NBD, --control SOCKET for QMP",
    "selinux-label": _NBDKIT,
    "serial": _GUEST,
    "smp": _GUEST,
    "snapshot": "images are written to: qemu-img create -b makes an overlay for that",
    "socket": "write --nbd SOCKET for NBD, --control SOCKET for QMP",
    "t": "write --threads N",
    "swap": _NBDKIT,
    "tls-creds": _TLS,
    "tls-verify-peer": _NBDKIT,
    "trace": _LOG,
    "u": "write --nbd SOCKET",
    "unix": "write --nbd SOCKET",
    "v": "write --log-level debug",
    "verbose": "write --log-level debug",
}

CLIENT_OPTIONS: Final = {
    "a": "all are shown",
    "all": "all are shown",
    "c": "write -s SOCKET",
    "connect": "write -s SOCKET",
    "format": _JSON,
    "host": "the control socket is a Unix socket: -s PATH",
    "id": "the ID is typed alone",
    "j": _JSON,
    "job": "the ID is typed alone",
    "job-id": "the ID is typed alone",
    "json": _JSON,
    "o": _JSON,
    "output": _JSON,
    "path": "write -s SOCKET",
    "port": "the control socket is a Unix socket: -s PATH",
    "pretty": _JSON,
    "qmp": "write -s SOCKET",
    "raw": _JSON,
    "speed": "write SPEED behind ID, such as 10M",
    "t": "write --timeout SECONDS",
    "tcp": "the control socket is a Unix socket: -s PATH",
    "u": "write -s SOCKET",
    "unix": "write -s SOCKET",
    "wait": "a machine is there when 'faultline serve' has printed its line",
}

IMAGE_OPTIONS: Final = {"disk", "hda", "hdb", "image", "img", "sda", "size", "vda"}
"""Options by which people mean a drive."""

EVENTS_OPTIONS: Final = {
    "f": "events are followed anyway",
    "follow": "events are followed anyway",
    "limit": "write --count N",
    "max": "write --count N",
    "n": "write --count N",
    "num": "write --count N",
}

_COMPLETION = "'faultline completion SHELL' prints it"

TOP_OPTIONS: Final = {
    "completion": _COMPLETION,
    "install-completion": _COMPLETION,
    "show-completion": _COMPLETION,
    "v": "write --version",
    "verbose": "'faultline serve' logs all events on stderr",
}

COMMANDS: Final[Meanings] = {
    **dict.fromkeys(
        ("start", "run", "server", "launch", "up", "create", "new", "begin", "nbdkit", "nbd"),
        ("serve",),
    ),
    **dict.fromkeys(("query", "exec", "execute", "send", "command", "call"), ("qmp",)),
    **dict.fromkeys(("log", "tail", "follow", "watch", "listen", "logs"), ("events",)),
    **dict.fromkeys(("bitmaps", "dirty-bitmap"), ("bitmap",)),
    **dict.fromkeys(("continue", "resume", "unpause"), ("cont",)),
    **dict.fromkeys(("drives", "policy", "set-policy"), ("drive",)),
    **dict.fromkeys(("exit", "kill", "shutdown", "terminate"), ("quit",)),
    **dict.fromkeys(("extend", "volumes"), ("volume",)),
    **dict.fromkeys(("fail", "break", "faults", "inject", "rule", "rules"), ("fault",)),
    **dict.fromkeys(("list", "machines", "ps"), ("ls",)),
    **dict.fromkeys(("pause", "suspend"), ("stop",)),
    **dict.fromkeys(("reboot", "system-reset"), ("reset",)),
    **dict.fromkeys(("info", "show", "state", "top"), ("status",)),
    **dict.fromkeys(("flow", "play", "scenarios"), ("scenario",)),
    **dict.fromkeys(("expect", "wait-event"), ("wait",)),
}

COMMAND_TEXTS: Final = {
    "?": "'faultline --help' lists the commands",
    "help": "'faultline --help' lists the commands",
    "hmp": "there is no monitor for people: 'faultline qmp' sends one command",
    "monitor": "'faultline events' follows a machine, 'faultline qmp' sends one command",
    "qmp-shell": "'faultline qmp' sends one command; a shell is in Python's package qemu.qmp",
    "shell": "'faultline qmp' sends one command; a shell is in Python's package qemu.qmp",
    "version": "write faultline --version",
}
