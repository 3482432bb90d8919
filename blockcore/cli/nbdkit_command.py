# SPDX-License-Identifier: MIT
"""The command line and the environment with which nbdkit serves a machine.

What the plugin must know beyond its KEY=VALUE parameters is passed in environment
variables:

FAULTLINE_SERVE=1        print the ready line; report configuration errors as one line
FAULTLINE_LOG            json or console
FAULTLINE_LOG_LEVEL      error, warning, info or debug: what is below it is not logged
FAULTLINE_LOG_FD         the descriptor of the log, if that is not stderr
FAULTLINE_NBD_SOCKET     the path of the Unix socket; with a mode the plugin removes it at the end
FAULTLINE_CONTROL_FD     the control socket, if another program has opened it
FAULTLINE_NBD_MODE       the mode (octal) that the plugin gives the socket
FAULTLINE_NBD_GROUP      the group (number) that the plugin gives the socket, if any
FAULTLINE_NBD_ADDRESS    the address that NBD URIs name, instead of a Unix socket
FAULTLINE_NBD_PORT       the TCP port, with an address
FAULTLINE_NBD_TLS=1      clients must use TLS
FAULTLINE_NBD_USER       the user that NBD URIs name, quoted; may be empty
FAULTLINE_NBD_QUERY      what NBD URIs say about keys or certificates; may be empty
FAULTLINE_RUNTIME_DIR    a private directory; the plugin removes it at the end
FAULTLINE_STANDBY=1      take the parameters from stdin (`process/standby.py`)
FAULTLINE_PLACES         where in a file parameters are from: {KEY: [PLACE, ...]} in JSON
FAULTLINE_OPTIONS=1      nbdkit has further options, such as filters
FAULTLINE_QUOTED=1       the values of the parameters are percent-encoded
FAULTLINE_PIDFILE        the path of the pidfile; the plugin removes it at the end
FAULTLINE_PID            the number in the pidfile, if it is not the machine's
FAULTLINE_PARENT         the process id of the parent
FAULTLINE_PARENT_FD      a pidfd of the parent, if the machine ends with it
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import click

from blockcore.cli.embedding import Nbdkit, embedded_environment
from blockcore.cli.listen import Listener

TOP = Path(__file__).absolute().parents[2]
"""The directory that has the package `blockcore`: the source tree, or site-packages."""

PRIVATE_VARIABLES = (
    "FAULTLINE_SERVE",
    "FAULTLINE_LOG",
    "FAULTLINE_LOG_LEVEL",
    "FAULTLINE_LOG_FD",
    "FAULTLINE_NBD_SOCKET",
    "FAULTLINE_CONTROL_FD",
    "FAULTLINE_NBD_MODE",
    "FAULTLINE_NBD_GROUP",
    "FAULTLINE_NBD_ADDRESS",
    "FAULTLINE_NBD_PORT",
    "FAULTLINE_NBD_TLS",
    "FAULTLINE_NBD_USER",
    "FAULTLINE_NBD_QUERY",
    "FAULTLINE_RUNTIME_DIR",
    "FAULTLINE_STANDBY",
    "FAULTLINE_PLACES",
    "FAULTLINE_OPTIONS",
    "FAULTLINE_QUOTED",
    "FAULTLINE_PIDFILE",
    "FAULTLINE_PID",
    "FAULTLINE_PARENT",
    "FAULTLINE_PARENT_FD",
)
"""The variables above; those of the user's environment are dropped: only `serve` sets them."""


def serve_command(
    keys: Sequence[str],
    *,
    nbdkit: Nbdkit,
    plugin: Path,
    packages: Sequence[Path],
    listen: Listener,
    control: Path | None,
    threads: int | None = None,
    log_format: str,
    runtime_dir: Path | None,
    standby: bool = False,
    options: Sequence[str] = (),
    parameters: Sequence[str] = (),
    environ: Mapping[str, str],
) -> tuple[list[str], dict[str, str]]:
    """Return nbdkit's argument vector and environment for one machine; changes nothing.

    `packages` are directories with what the plugin imports.  `control` None
    means a socket in `runtime_dir`; with `standby` the plugin names it, unless the keys
    that come do.  A `control=` among `keys` is replaced, because its path may be relative
    and `control` is absolute.  `options` and `parameters` of nbdkit's filters are passed on.
    """
    if control is None and not standby:
        assert runtime_dir is not None
        control = runtime_dir / "control"
    # The plugin reports its errors itself; nbdkit would log each one twice, with a traceback.
    argv = [str(nbdkit.program), "-f", "--log=null", *listen.arguments()]
    if threads is not None:
        argv += ["-t", str(threads)]
    argv += [*options, "python", str(plugin)]
    # nbdkit's Python plugin cannot pass on values that are not UTF-8, so they are encoded.
    pairs = [key for key in keys if not key.startswith("control=")]
    pairs += [] if control is None else [f"control={control}"]
    quoted = not all(_is_utf8(pair) for pair in pairs)
    argv += [_quoted(pair) if quoted else pair for pair in pairs] + [*parameters]

    # The directory of the core comes last: it may have packages for this interpreter, too.
    env = embedded_environment(nbdkit.program, [*packages, TOP], environ)
    env = {name: value for name, value in env.items() if name not in PRIVATE_VARIABLES}
    env |= {"FAULTLINE_SERVE": "1", "FAULTLINE_LOG": log_format, **listen.environment()}
    if runtime_dir is not None:
        env["FAULTLINE_RUNTIME_DIR"] = str(runtime_dir)
    if standby:
        env["FAULTLINE_STANDBY"] = "1"
    if options:
        env["FAULTLINE_OPTIONS"] = "1"
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
