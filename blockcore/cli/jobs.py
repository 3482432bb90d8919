# SPDX-License-Identifier: MIT
"""`faultline jobs` and `faultline job`: the jobs of a machine, listed and controlled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set

import click

from blockcore.cli.amounts import limit
from blockcore.cli.completions import named
from blockcore.cli.connection import Control, ErrorReply, control_options
from blockcore.cli.job_table import advice, shown_status, table
from blockcore.cli.job_wait import Stirring, wait
from blockcore.cli.once import Command, Group
from blockcore.cli.tables import screen_width
from blockcore.qapi.errors import QmpError
from blockcore.qapi.nearest import as_size, did_you_mean, either, there_are
from blockcore.qapi.texts import opt_size
from faultline.aio import Machine
from faultline.aio.jobs import query_jobs
from faultline.errors import CommandError
from faultline.job_info import PAUSED, JobInfo
from faultline.job_watch import JobWatch, Need

FUTURE = {
    "pause": "will pause",
    "resume": "will go on",
    "cancel": "will be cancelled",
    "complete": "will be completed",
    "finalize": "will be finalized",
}
"""The texts for a job on which a command has not taken effect yet."""

SETTINGS = {"help_option_names": ["-h", "--help"]}


@click.command(cls=Command, context_settings=SETTINGS)
@control_options
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
def jobs(control: Control, as_json: bool) -> None:
    """List all jobs: what they are doing, and how far they are.

    SPEED is the limit that was set.  IO-STATUS is failed or nospace while an
    error keeps the job paused.  With --json, each object has the members of
    query-jobs and of query-block-jobs.

    \b
    Examples:
      faultline jobs -s m0.qmp
      faultline jobs --json | jq -r '.[] | select(."io-status" != "ok").id'
    """
    found = control.run(query_jobs)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("There are no jobs.")
    else:
        click.echo("\n".join(table([JobInfo.of(job) for job in found], screen_width())))


@click.group(cls=Group, no_args_is_help=True, context_settings=SETTINGS)
def job() -> None:
    """Wait for a job, or tell it what to do.

    \b
    Examples:
      faultline job wait -s m0.qmp j
      export FAULTLINE_CONTROL=m0.qmp
      faultline job set-speed j 10M
      faultline job wait --ready m && faultline job complete m
    """


@job.command(name="wait")
@control_options
@click.option("--ready", is_flag=True, help="Also end when it can be completed.")
@click.option("--pending", is_flag=True, help="Also end when it has to be finalized.")
@click.option("--stopped", is_flag=True, help="Also end, with status 3, when an error stops it.")
@click.argument("job_id", metavar="ID", shell_complete=named("jobs"))
def wait_command(
    control: Control, job_id: str, ready: bool, pending: bool, stopped: bool
) -> None:
    """Wait until a job is over, and show how far it is.

    The exit status is 0 if the job has completed, 1 if it has failed or was
    cancelled.  When the job has to be resumed after an error, completed or
    finalized, a line says so.  The waiting goes on then, unless an option ends
    it.  An interrupt ends the waiting, not the job.

    \b
    Examples:
      faultline job wait j
      faultline job wait --stopped j || faultline jobs
      faultline job wait --ready m && faultline job complete m
    """
    given = {Need.READY: ready, Need.PENDING: pending, Need.STOPPED: stopped}
    until = frozenset(need for need in given if given[need])
    watch = JobWatch(job_id)
    control.limited(wait(control.path, watch, until), lambda: in_vain(watch, until))


@job.command()
@control_options
@click.argument("job_id", metavar="ID", shell_complete=named("jobs"))
def pause(control: Control, job_id: str) -> None:
    """Pause a job as soon as it can pause.

    \b
    Example:
      faultline job pause j
    """
    _steer(control, job_id, "pause", "job-pause", {"id": job_id})


@job.command()
@control_options
@click.argument("job_id", metavar="ID", shell_complete=named("jobs"))
def resume(control: Control, job_id: str) -> None:
    """Resume a job that was paused, or that an error has stopped.

    \b
    Example:
      faultline job resume j
    """
    _steer(control, job_id, "resume", "job-resume", {"id": job_id})


@job.command()
@control_options
@click.option("--force", is_flag=True, help="Even if it is paused, and at once.")
@click.argument("job_id", metavar="ID", shell_complete=named("jobs"))
def cancel(control: Control, job_id: str, force: bool) -> None:
    """Cancel a job.

    A job that is ready finishes its copy first, and counts as completed.

    \b
    Example:
      faultline job cancel --force j
    """
    arguments = {"device": job_id, "force": force}
    _steer(control, job_id, "cancel", "block-job-cancel", arguments)


@job.command()
@control_options
@click.argument("job_id", metavar="ID", shell_complete=named("jobs"))
def complete(control: Control, job_id: str) -> None:
    """Complete a job that is ready.

    The drive then uses what the job has made.

    \b
    Example:
      faultline job complete j
    """
    _steer(control, job_id, "complete", "job-complete", {"id": job_id})


@job.command()
@control_options
@click.argument("job_id", metavar="ID", shell_complete=named("jobs"))
def finalize(control: Control, job_id: str) -> None:
    """Finalize a pending job: let it take its last steps.

    Only jobs with auto-finalize=false are pending for long.

    \b
    Example:
      faultline job finalize j
    """
    _steer(control, job_id, "finalize", "job-finalize", {"id": job_id})


@job.command()
@control_options
@click.argument("job_id", metavar="ID", shell_complete=named("jobs"))
def dismiss(control: Control, job_id: str) -> None:
    """Dismiss a job that is over: remove it from the list.

    Only jobs with auto-dismiss=false stay in the list for that.

    \b
    Example:
      faultline job dismiss j
    """
    control.run(lambda machine: _execute(machine, job_id, "job-dismiss", {"id": job_id}))
    click.echo(f"{job_id}: dismissed")


@job.command(name="set-speed")
@control_options
@click.argument("job_id", metavar="ID", shell_complete=named("jobs"))
@click.argument("speed")
def set_speed(control: Control, job_id: str, speed: str) -> None:
    """Limit a job to SPEED bytes per second.

    SPEED may have a binary suffix: k, M, G.  0 removes the limit.

    \b
    Example:
      faultline job set-speed j 10M
    """
    try:
        nbytes = opt_size(speed, "SPEED")
    except QmpError as exc:
        hint = as_size(speed)
        message = f"SPEED is a number of bytes per second, such as 10M, not '{speed}'{hint}"
        raise click.UsageError(message) from exc
    arguments = {"device": job_id, "speed": nbytes}
    control.run(lambda machine: _execute(machine, job_id, "block-job-set-speed", arguments))
    click.echo(f"{job_id}: speed {limit(nbytes)}")


async def _execute(
    machine: Machine, job_id: str, command: str, arguments: Mapping[str, object]
) -> None:
    """Send a command to a job; raises ErrorReply that tells which jobs there are."""
    try:
        await machine.execute(command, arguments)
    except CommandError as exc:
        if not exc.text.endswith("not found"):
            raise
        known = sorted(str(job["id"]) for job in await query_jobs(machine))
        there = there_are(known) if known else "there are no jobs"
        hint = did_you_mean(job_id, known) or f": {there}"
        raise ErrorReply(exc.text + hint) from exc


def _steer(
    control: Control, job_id: str, verb: str, command: str, arguments: Mapping[str, object]
) -> None:
    """Send a command to a job, and print what has become of the job (`outcome`)."""
    watch = JobWatch(job_id)

    async def steer(machine: Machine) -> None:
        watch.look(await query_jobs(machine))
        await _execute(machine, job_id, command, arguments)
        watch.look(await query_jobs(machine))

    control.run(steer, Stirring(watch).hear)
    click.echo(outcome(watch, verb))


def outcome(watch: JobWatch, verb: str) -> str:
    """Describe a job after a command `verb`: its end, its status, or what it has yet to do."""
    if watch.ending is not None:
        error = f": {watch.ending.error}" if watch.ending.error else ""
        return f"{watch.id}: {watch.ending.status}{error}"
    assert watch.job is not None
    if verb == "resume" and watch.need is Need.STOPPED:
        # The job has tried again and has failed again.
        return str(advice(watch))
    paused = watch.job.status in PAUSED
    done = {"pause": paused, "resume": not paused}.get(verb, False)
    return f"{watch.id}: {watch.job.status}" + ("" if done else f", {FUTURE[verb]}")


def in_vain(watch: JobWatch, until: Set[Need]) -> str:
    """Describe a job that has not got to where it was awaited."""
    if watch.job is None:
        return f"{watch.id}: no answer"
    awaited = either(["over", *sorted(until)])
    return f"{watch.id}: {shown_status(watch.job)}, not {awaited}"
