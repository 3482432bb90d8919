# SPDX-License-Identifier: MIT
"""`faultline serve`: become nbdkit with the plugin, one machine in the foreground.

The process is replaced by nbdkit, so signals, exit status and file descriptors
are nbdkit's own.  What the plugin must know beyond its KEY=VALUE parameters
is passed in environment variables:

FAULTLINE_SERVE=1        print the ready line; report configuration errors as one line
FAULTLINE_LOG            json or console
FAULTLINE_NBD_SOCKET     the path of the Unix socket; the plugin removes it at the end
FAULTLINE_NBD_MODE       the mode (octal) that the plugin gives the socket
FAULTLINE_NBD_GROUP      the group (number) that the plugin gives the socket, if any
FAULTLINE_NBD_ADDRESS    the address that NBD URIs name, instead of a Unix socket
FAULTLINE_NBD_PORT       the TCP port, with an address
FAULTLINE_RUNTIME_DIR    a private directory; the plugin removes it at the end
FAULTLINE_STANDBY=1      take the parameters from stdin (`process/standby.py`)
FAULTLINE_QUOTED=1       the values of the parameters are percent-encoded
FAULTLINE_PARENT         the process id of the parent
FAULTLINE_PARENT_FD      a pidfd of the parent, if the machine ends with it
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import click

from blockcore.cli.embedding import Nbdkit, embedded_environment, find_nbdkit
from blockcore.cli.endpoints import endpoints
from blockcore.cli.listen import TcpPort, UnixSocket
from blockcore.cli.once import Command
from blockcore.cli.output import require_stdout
from blockcore.cli.plugin_packages import plugin_packages
from blockcore.cli.runtime_dir import runtime_dir
from blockcore.cli.surroundings import checked, open_parent
from blockcore.config.sockets import needs_drive
from blockcore.process.signals import held
from blockcore.process.temporary_drive import temporary_drive

TOP = Path(__file__).absolute().parents[2]
"""The directory that has the package `blockcore`: the source tree, or site-packages."""

PRIVATE_VARIABLES = (
    "FAULTLINE_SERVE",
    "FAULTLINE_LOG",
    "FAULTLINE_NBD_SOCKET",
    "FAULTLINE_NBD_MODE",
    "FAULTLINE_NBD_GROUP",
    "FAULTLINE_NBD_ADDRESS",
    "FAULTLINE_NBD_PORT",
    "FAULTLINE_RUNTIME_DIR",
    "FAULTLINE_STANDBY",
    "FAULTLINE_QUOTED",
    "FAULTLINE_PARENT",
    "FAULTLINE_PARENT_FD",
)
"""The variables above; those of the user's environment are dropped: only `serve` sets them."""


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--nbd", "nbd_socket", metavar="SOCKET", help="Unix socket of the NBD server.")
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="N", help="TCP port of the NBD server."
)
@click.option(
    "--address", metavar="ADDRESS", help="Local address of --port.  [default: 127.0.0.1]"
)
@click.option(
    "--socket-mode",
    metavar="MODE",
    help="Permissions of --nbd, such as 660; connecting needs to write.  [default: by umask]",
)
@click.option("--socket-group", metavar="GROUP", help="Group of --nbd; then the mode is 660.")
@click.option("--control", metavar="SOCKET", help="Unix socket for QMP, same as control=SOCKET.")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Requests of one connection in flight, held ones included.  [default: 16]",
)
@click.option(
    "--exit-with-parent", is_flag=True, help="End when the process that has started this ends."
)
@click.option(
    "--standby", is_flag=True, help="Start, and wait for the keys as a line of JSON on stdin."
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "console"]),
    help="Log on stderr.  [default: console on a terminal, else json]",
)
def serve(
    keys: tuple[str, ...],
    nbd_socket: str | None,
    port: int | None,
    address: str | None,
    socket_mode: str | None,
    socket_group: str | None,
    control: str | None,
    threads: int | None,
    exit_with_parent: bool,
    standby: bool,
    log_format: str | None,
) -> None:
    """Serve one machine's drives over NBD until SIGTERM or SIGINT.

    When the machine accepts connections, it prints one line of JSON on stdout:
    the NBD URI of every drive, and the control socket.  Logs go to stderr.
    Sockets without a name are made in a private directory and removed at the
    end.  Without drive= and blockdev= it serves a temporary drive of 1 GiB, vda.
    With --standby it starts without keys, and serves within milliseconds of a
    line such as {"keys": ["drive=..."], "directory": "/of/relative/names"}.

    \b
    Keys (the first three may be repeated):
      drive=...                as QEMU's -drive: id, file, rerror, werror, ...
      blockdev=...             as QEMU's -blockdev, keyval or JSON
      device=...               as QEMU's -device, for block devices
      control=SOCKET           the QMP socket
      prelaunch=on             start stopped, as QEMU's -S
      job-error-check=modern   accept job error policies as QEMU 7.2 does
      qemu=7.2                 answer as QEMU 7.2 does, not as 10.0
      seed=N                   for fault rules with a rate
      name=TEXT                what query-name answers
      allow-backing=DIR        where backing files have to be that images name

    \b
    Examples:
      faultline serve
      faultline serve control=m0.qmp drive=id=vda,file=disk.img,rerror=stop
      faultline serve --port 10809 drive=id=d0,driver=null-co,size=1048576
      faultline serve --nbd m0.nbd drive=id=vda,file=blkdebug:faults.conf:disk.img
    """
    # First what can fail: options, limits, nbdkit, sockets.  Then make files, and become nbdkit.
    if standby and keys:
        raise click.UsageError("--standby takes keys from standard input only")
    parent = open_parent() if exit_with_parent else None
    unix, tcp = (nbd_socket, socket_mode, socket_group), (port, address)
    listen, control_path = endpoints(keys, unix, tcp, control)
    require_stdout()
    environ = checked(os.environ)
    plugin = find_plugin()
    nbdkit = find_nbdkit(environ)
    packages = plugin_packages(nbdkit, environ)
    if listen is not None:
        listen.claim()
    embedded = needs_drive(keys)  # also in standby: the keys that come may name no drive
    everything_named = listen is not None and control_path is not None
    # The plugin removes files made from here on, and takes signals that come from here on.
    with held(), runtime_dir(embedded, everything_named, environ) as directory:
        if listen is None:
            listen = _private_socket(directory)
        argv, env = serve_command(
            keys if standby or not embedded else _with_drive(keys, directory),
            nbdkit=nbdkit,
            plugin=plugin,
            packages=packages,
            listen=listen,
            control=control_path,
            threads=threads,
            log_format=log_format or ("console" if sys.stderr.isatty() else "json"),
            runtime_dir=directory,
            standby=standby,
            environ=environ,
        )
        env["FAULTLINE_PARENT"] = str(os.getppid())
        if parent is not None:
            env["FAULTLINE_PARENT_FD"] = str(parent)
        os.execve(argv[0], argv, env)


def _private_socket(directory: Path | None) -> UnixSocket:
    assert directory is not None
    listen = UnixSocket(directory / "nbd")
    listen.claim()
    return listen


def _with_drive(keys: tuple[str, ...], directory: Path | None) -> tuple[str, ...]:
    assert directory is not None
    return (*keys, temporary_drive(directory))


def serve_command(
    keys: Sequence[str],
    *,
    nbdkit: Nbdkit,
    plugin: Path,
    packages: Sequence[Path],
    listen: UnixSocket | TcpPort,
    control: Path | None,
    threads: int | None = None,
    log_format: str,
    runtime_dir: Path | None,
    standby: bool = False,
    environ: Mapping[str, str],
) -> tuple[list[str], dict[str, str]]:
    """Return nbdkit's argument vector and environment for one machine; changes nothing.

    `packages` are directories with what the plugin imports.  `control` None
    means a socket in `runtime_dir`; with `standby` the plugin names it, unless the keys
    that come do.  A `control=` among `keys` is replaced, because its path may be relative
    and `control` is absolute.
    """
    if control is None and not standby:
        assert runtime_dir is not None
        control = runtime_dir / "control"
    # The plugin reports its errors itself; nbdkit would log each one twice, with a traceback.
    argv = [str(nbdkit.program), "-f", "--log=null", *listen.arguments()]
    if threads is not None:
        argv += ["-t", str(threads)]
    argv += ["python", str(plugin)]
    # nbdkit's Python plugin cannot pass on values that are not UTF-8, so they are encoded.
    pairs = [key for key in keys if not key.startswith("control=")]
    pairs += [] if control is None else [f"control={control}"]
    quoted = not all(_is_utf8(pair) for pair in pairs)
    argv += [_quoted(pair) if quoted else pair for pair in pairs]

    # The directory of the core comes last: it may have packages for this interpreter, too.
    env = embedded_environment(nbdkit.program, [*packages, TOP], environ)
    env = {name: value for name, value in env.items() if name not in PRIVATE_VARIABLES}
    env |= {"FAULTLINE_SERVE": "1", "FAULTLINE_LOG": log_format, **listen.environment()}
    if runtime_dir is not None:
        env["FAULTLINE_RUNTIME_DIR"] = str(runtime_dir)
    if standby:
        env["FAULTLINE_STANDBY"] = "1"
    if quoted:
        env["FAULTLINE_QUOTED"] = "1"
    return argv, env


def _is_utf8(text: str) -> bool:
    """Return whether nbdkit can pass a parameter to Python."""
    try:
        os.fsencode(text).decode()
    except UnicodeDecodeError:
        return False
    return True


def _quoted(pair: str) -> str:
    key, _, value = pair.partition("=")
    return f"{key}={quote(os.fsencode(value))}"


def find_plugin() -> Path:
    """Return the path of the plugin: in `plugin/` of the source tree, or of the installed package.

    Raises ClickException if it is missing.
    """
    for directory in ("faultline_plugin", "plugin"):
        path = TOP / directory / "drive.py"
        if path.is_file():
            return path
    raise click.ClickException(f"the plugin is missing: no plugin/drive.py in {TOP}")
