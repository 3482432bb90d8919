# SPDX-License-Identifier: MIT
"""What `serve` finds out before it makes any file, and what it starts then."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from blockcore.bql.later import later
from blockcore.cli.activation import Activation, activation
from blockcore.cli.embedding import Nbdkit, find_nbdkit
from blockcore.cli.endpoints import endpoints
from blockcore.cli.launch import Launch
from blockcore.cli.listen import Listener, UnixSocket
from blockcore.cli.nbdkit_command import find_plugin, serve_command
from blockcore.cli.output import require_stdout
from blockcore.cli.plugin_packages import plugin_packages
from blockcore.cli.runtime_dir import PrivateDirectory
from blockcore.cli.serve_options import ServeOptions
from blockcore.cli.surroundings import checked, open_parent
from blockcore.cli.tls import Tls
from blockcore.process.temporary_drive import needs_directory, with_files
from blockcore.qapi.errors import QmpError
from blockcore.qapi.record import dataclass

_rehearse = later("blockcore.cli.rehearsal:rehearse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All that a start needs; only sockets and the log's file are open.

    `listen` and `control` are None if the private directory gets these sockets, and
    `parent` and `log` if there are no such descriptors.  `passed_on` are options for
    nbdkit, those of TLS with them.
    """

    options: ServeOptions
    environ: Mapping[str, str]
    nbdkit: Nbdkit
    plugin: Path
    packages: Sequence[Path]
    listen: Listener | None
    control: Path | None
    tls: Tls
    passed_on: Sequence[str]
    parent: int | None
    log: int | None
    control_socket: int | None

    @property
    def keeps_files(self) -> bool:
        """Whether the private directory gets a disk; in standby it may."""
        return self.options.standby or needs_directory(self.options.keys)

    @property
    def everything_named(self) -> bool:
        """Whether both sockets have names."""
        return self.listen is not None and self.control is not None

    def launch(self, private: PrivateDirectory | None) -> Launch:
        """Return what starts the machine; makes the disks that the user has not named.

        Raises ClickException if these cannot be made.
        """
        options = self.options
        directory = None if private is None else private.path
        listen = self.listen or _private_socket(directory)
        keys = options.keys
        if self.keeps_files and not options.standby:
            keys = _with_files(keys, directory)
        argv, env = serve_command(
            keys,
            nbdkit=self.nbdkit,
            plugin=self.plugin,
            packages=self.packages,
            listen=listen,
            control=self.control,
            threads=options.threads,
            log_format=options.chosen_log_format(),
            runtime_dir=directory,
            standby=options.standby,
            options=self.passed_on,
            parameters=options.nbdkit.parameters,
            environ=self.environ,
        )
        env |= self.tls.environment() | options.environment()
        launch = Launch(argv, env, listen.sockets, lock=private.lock if private else None)
        launch.pass_on("FAULTLINE_PARENT_FD", self.parent)
        launch.pass_on("FAULTLINE_LOG_FD", self.log)
        launch.pass_on("FAULTLINE_CONTROL_FD", self.control_socket)
        return launch


def prepare(options: ServeOptions) -> Prepared:
    """Find everything that a start needs; raises ClickException if it cannot succeed.

    What the user can correct comes first.  The log's file is opened last, because that
    makes it.
    """
    given = _activated(options)
    parent = open_parent() if options.exit_with_parent else None
    unix = (options.nbd_socket, options.socket_mode, options.socket_group)
    tcp = (options.port, options.address)
    listen, control = endpoints(options.keys, unix, tcp, options.control)
    tls = options.chosen_tls()
    if options.run is None:
        require_stdout()
    environ = checked(os.environ)
    plugin = find_plugin()
    nbdkit = find_nbdkit(environ)
    packages = plugin_packages(nbdkit, environ)
    passed_on = [*tls.arguments(), *options.nbdkit.options]
    if passed_on or options.nbdkit.parameters:
        _rehearse()(nbdkit.program, passed_on, options.nbdkit.parameters, environ)
    options.require_pidfile()
    return Prepared(
        options=options,
        environ=environ,
        nbdkit=nbdkit,
        plugin=plugin,
        packages=packages,
        listen=given.nbd if listen is None else listen.claim(),
        control=control if given.control is None else Path(given.control.getsockname()),
        tls=tls,
        passed_on=passed_on,
        parent=parent,
        log=options.log_descriptor(),
        control_socket=None if given.control is None else given.control.detach(),
    )


def _activated(options: ServeOptions) -> Activation:
    """Return the sockets that another program has opened; UsageError if others are named."""
    given = activation(os.environ)
    names_control = any(key.startswith("control=") for key in options.keys)
    named = {
        "--nbd": given.nbd is not None and options.nbd_socket is not None,
        "--port": given.nbd is not None and options.port is not None,
        "control": given.control is not None and (options.control is not None or names_control),
    }
    for name, is_given in named.items():
        if is_given:
            raise click.UsageError(f"{name}: LISTEN_FDS has that socket already")
    return given


def _private_socket(directory: Path | None) -> UnixSocket:
    assert directory is not None
    return UnixSocket(directory / "nbd").claim()


def _with_files(keys: tuple[str, ...], directory: Path | None) -> tuple[str, ...]:
    assert directory is not None
    try:
        return with_files(keys, directory)
    except QmpError as exc:
        raise click.ClickException(str(exc)) from exc
