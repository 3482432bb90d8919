# SPDX-License-Identifier: MIT
"""`faultline serve`: become nbdkit with the plugin, one machine in the foreground.

The process is replaced by nbdkit, so signals, exit status and file descriptors
are nbdkit's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from blockcore.cli.nbdkit_options import parse_nbdkit_options
from blockcore.cli.once import BEHIND, CommandWithRest
from blockcore.cli.prepare import prepare
from blockcore.cli.runtime_dir import runtime_dir
from blockcore.cli.serve_options import ServeOptions
from blockcore.cli.tls import MODES
from blockcore.process.signals import held


def _keys(ctx: click.Context, param: click.Parameter, typed: str) -> list[str]:
    """Complete a key; what that needs is imported when it is needed."""
    names: list[str] = import_module("blockcore.cli.completions").keys(typed)
    return names


@click.command(cls=CommandWithRest, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("keys", metavar="[KEY=VALUE]...", nargs=-1, shell_complete=_keys)
@click.option("--nbd", "nbd_socket", metavar="SOCKET", help="Unix socket of the NBD server.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    help="TCP port of the NBD server; 0 is any free one.",
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
@click.option(
    "--config", metavar="FILE", help="JSON file with keys and options; see docs/config.md."
)
@click.option("--control", metavar="SOCKET", help="Unix socket for QMP, same as control=SOCKET.")
@click.option("--record", metavar="FILE", help="Write down what happens, same as record=FILE.")
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
    "--run",
    metavar="COMMAND",
    help="Serve until this shell command ends, and exit with its status.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End the command of --run after that time, and exit with 124.",
)
@click.option("--daemonize", is_flag=True, help="Return when it serves; the machine stays.")
@click.option("--pidfile", metavar="FILE", help="File with the process id, while it serves.")
@click.option(
    "--log-format",
    type=click.Choice(["json", "console"]),
    help="Form of the log.  [default: console on a terminal, else json]",
)
@click.option("--log-file", metavar="FILE", help="Append the log to a file.  [default: stderr]")
@click.option(
    "--log-level",
    type=click.Choice(["error", "warning", "info", "debug"]),
    help="The least level of what is logged.  [default: info]",
)
@click.option(
    "--tls",
    type=click.Choice(MODES),
    help="TLS of the NBD server.  [default: off, or require with one of the next two]",
)
@click.option("--tls-psk", metavar="FILE", help="Pre-shared keys, as psktool writes them.")
@click.option("--tls-certificates", metavar="DIR", help="Certificates, as nbdkit takes them.")
@click.option("--quiet", is_flag=True, help="Same as --log-level error.")
def serve(**given: Any) -> int | None:
    """Serve one machine's drives over NBD until SIGTERM or SIGINT.

    When the machine accepts connections, it prints one line of JSON on stdout:
    the NBD URI of every drive, and the control socket.  Logs go to stderr.
    Sockets without a name are made in a private directory and removed at the
    end.  Without drive= and blockdev= it serves a temporary drive of 1 GiB, vda.
    With --standby it starts without keys, and serves within milliseconds of a
    line such as {"keys": ["drive=..."], "directory": "/of/relative/names"}.
    What is behind -- goes to nbdkit: its options, and parameters of its filters.

    \b
    Keys (the first four may be repeated):
      drive=...                as QEMU's -drive: id, file, rerror, werror, ...
      blockdev=...             as QEMU's -blockdev, keyval or JSON
      device=...               as QEMU's -device, for block devices
      fault=...                a fault rule, as x-fault-add: node-name, errno...
      faults=FILE              a file with such a rule on each line
      control=SOCKET           the QMP socket
      prelaunch=on             start stopped, as QEMU's -S
      job-error-check=modern   accept job error policies as QEMU 7.2 does
      qemu=7.2                 answer as QEMU 7.2 does, not as 10.0
      seed=N                   for fault rules with a rate
      name=TEXT                what query-name answers
      record=FILE              write down all that is asked and answered
      record-data=off          without what guests write
      allow-backing=DIR        where backing files have to be that images name
      x-sticky-io-status=on    cont leaves that of anonymous drives

    \b
    Examples:
      faultline serve
      faultline serve control=m0.qmp drive=id=vda,file=disk.img,rerror=stop
      faultline serve --port 0 drive=id=d0,driver=null-co,size=1048576
      faultline serve --nbd m0.nbd drive=id=vda,file=blkdebug:faults.conf:disk.img
      faultline serve fault=vda,iotype=write,errno=ENOSPC,offset=512M
      faultline serve --config machine.json --port 0
      faultline serve --run 'nbdcopy "$uri" null:'
      faultline serve drive=id=vda,file=disk.img -- --filter=delay wdelay=1
      faultline serve --daemonize --pidfile m0.pid control=m0.qmp
    """
    context = click.get_current_context()
    behind = context.meta[BEHIND]
    path = given.pop("config")
    if path is not None:
        config_file = import_module("blockcore.cli.config_file")
        given, behind = config_file.completed(path, context, given, behind)
    record = given.pop("record")
    if record is not None:
        given["keys"] = (*given["keys"], f"record={record}")
    options = ServeOptions(**given, nbdkit=parse_nbdkit_options(behind))
    options.check()
    return _serve(options)


def _serve(options: ServeOptions) -> int | None:
    """Serve; returns an exit status, and only if this process does not become the machine."""
    prepared = prepare(options)
    environ = prepared.environ
    place = runtime_dir(prepared.keeps_files, prepared.everything_named, environ)
    # The plugin removes files made from here on, and takes signals that come from here on.
    with held() as mask, place as private:
        launch = prepared.launch(private)
        if options.is_supervised:
            supervised = import_module("blockcore.cli.supervised")
            status: int = supervised.serve(launch, options, mask, environ)
            return status
        launch.become()
    return None
