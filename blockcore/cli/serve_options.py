# SPDX-License-Identifier: MIT
"""The options of `serve`, and which of them exclude each other."""

from __future__ import annotations

import os
import sys
from dataclasses import field

import click

from blockcore.cli.nbdkit_options import NbdkitOptions
from blockcore.cli.tls import Tls, tls
from blockcore.process.pidfile import require_room
from blockcore.qapi.errors import QmpError
from blockcore.qapi.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What the user has typed after `serve`, or has in a file.

    None and False stand for an option not given.  `places` says where in the file the
    first keys of each name are from: {KEY: [PLACE, ...]} in JSON.
    """

    keys: tuple[str, ...] = ()
    nbd_socket: str | None = None
    port: int | None = None
    address: str | None = None
    socket_mode: str | None = None
    socket_group: str | None = None
    control: str | None = None
    threads: int | None = None
    exit_with_parent: bool = False
    standby: bool = False
    run: str | None = None
    timeout: float | None = None
    daemonize: bool = False
    pidfile: str | None = None
    log_format: str | None = None
    log_file: str | None = None
    log_level: str | None = None
    quiet: bool = False
    tls: str | None = None
    tls_psk: str | None = None
    tls_certificates: str | None = None
    nbdkit: NbdkitOptions = field(default_factory=NbdkitOptions)
    places: str | None = None

    def check(self) -> None:
        """Raise UsageError if options contradict each other."""
        if self.standby and self.keys:
            raise click.UsageError("--standby takes keys from standard input only")
        if self.timeout is not None and self.run is None:
            raise click.UsageError("--timeout needs --run")
        if self.quiet and self.log_level is not None:
            raise click.UsageError("--quiet and --log-level exclude each other")
        starts = {
            "--run": self.run is not None,
            "--daemonize": self.daemonize,
            "--standby": self.standby,
            "--exit-with-parent": self.exit_with_parent and (self.daemonize or self.run),
        }
        chosen = [name for name, is_given in starts.items() if is_given]
        if len(chosen) > 1:
            raise click.UsageError(f"{chosen[0]} and {chosen[1]} exclude each other")
        for name, value in (("--pidfile", self.pidfile), ("--log-file", self.log_file)):
            if value == "":
                raise click.UsageError(f"{name}: the path is empty")

    def chosen_tls(self) -> Tls:
        """Return what is asked for about TLS, by serve's options and by those for nbdkit.

        Raises UsageError if it makes no sense.
        """
        own = {
            "--tls": self.tls,
            "--tls-psk": self.tls_psk,
            "--tls-certificates": self.tls_certificates,
        }
        for name in self.nbdkit.tls:
            if own[name] is not None:
                raise click.UsageError(f"{name} is given twice")
        return tls(*(self.nbdkit.tls.get(name, value) for name, value in own.items()))

    def log_descriptor(self) -> int | None:
        """Open what the log goes to, if that is not stderr: the log file, for appending.

        The log of a daemon without a log file goes nowhere.  Raises ClickException if the
        file cannot be opened.
        """
        if self.log_file is None:
            return os.open(os.devnull, os.O_WRONLY) if self.daemonize else None
        try:
            return os.open(self.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as exc:
            raise click.ClickException(f"{self.log_file}: {exc.strerror}") from exc

    def chosen_log_format(self) -> str:
        """Return the form of the log: by default what suits its reader."""
        to_terminal = self.log_file is None and not self.daemonize and sys.stderr.isatty()
        return self.log_format or ("console" if to_terminal else "json")

    def require_pidfile(self) -> None:
        """Raise ClickException unless the pidfile can be made, if there is to be one."""
        if self.pidfile is not None:
            try:
                require_room(os.path.abspath(self.pidfile))
            except QmpError as exc:
                raise click.ClickException(exc.desc) from exc

    def environment(self) -> dict[str, str]:
        """Return the plugin's variables for the log, the pidfile, and the places of keys."""
        env = {}
        level = "error" if self.quiet else self.log_level
        if level is not None:
            env["FAULTLINE_LOG_LEVEL"] = level
        if self.pidfile is not None:
            env["FAULTLINE_PIDFILE"] = os.path.abspath(self.pidfile)
        if self.places is not None:
            env["FAULTLINE_PLACES"] = self.places
        return env

    @property
    def is_supervised(self) -> bool:
        """Whether the machine is a child of this process."""
        return self.daemonize or self.run is not None
