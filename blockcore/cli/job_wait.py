# SPDX-License-Identifier: MIT
"""The wait for a job: looks at the job in intervals, and when an event says that it changed."""

from __future__ import annotations

import asyncio
from collections.abc import Set

import click

from blockcore.cli.connection import connected, disconnected
from blockcore.cli.job_screen import Screen, open_screen
from blockcore.cli.job_table import News, advice
from faultline.aio import Machine
from faultline.aio.jobs import query_jobs
from faultline.errors import MachineEnded
from faultline.events import Event
from faultline.job_watch import Ending, JobWatch, Need, Rate

STOPPED_STATUS = 3
"""The exit status for a job that an error has stopped."""


class Stopped(click.ClickException):
    """The error for a job that an I/O error has stopped, where the user waits for that."""

    exit_code = STOPPED_STATUS


class Stirring:
    """A watch that hears of events; `stirred` is set when one makes a look worth while.

    Events are heard before the replies that come after them, so the watch knows of
    them when it gets the reply.
    """

    def __init__(self, watch: JobWatch) -> None:
        self.stirred = asyncio.Event()
        self._watch = watch

    def hear(self, event: Event) -> None:
        """Take an event of the machine."""
        if self._watch.take_event(event):
            self.stirred.set()


async def wait(path: str, watch: JobWatch, until: Set[Need]) -> None:
    """Show a job until it has completed, or needs one of `until`.

    Raises ClickException if the job fails, is cancelled, or does not exist, or if
    the machine ends; Stopped if `until` has Need.STOPPED and an error stops it.
    """
    stirring = Stirring(watch)
    async with connected(path, stirring.hear) as machine:
        watch.look(await query_jobs(machine))
        if not watch.found:
            raise click.ClickException(
                f"there is no job '{watch.id}'; one that is over is gone, unless it has"
                " auto-dismiss=false"
            )
        with open_screen() as screen:
            await _follow(machine, stirring, watch, until, screen)
    if watch.ending is None:
        if watch.need is Need.STOPPED:
            raise Stopped(str(advice(watch)))
    elif watch.ending.status != "completed":
        raise click.ClickException(f"{watch.id}: {_why(watch.ending)}")


def _why(ending: Ending) -> str:
    return ending.error or ending.status


async def _follow(
    machine: Machine, stirring: Stirring, watch: JobWatch, until: Set[Need], screen: Screen
) -> None:
    """Look at the job again and again, and show it, until it is over or needs one of `until`."""
    clock, rate, news = asyncio.get_running_loop().time, Rate(), News(watch)
    while watch.job is not None and watch.ending is None:
        rate.take(clock(), watch.job)
        screen.show(watch.job, rate)
        if watch.need in until:
            return
        if (line := news.line()) is not None:
            screen.say(line)
        await _until_stirred(machine, stirring, screen.interval_s)
        try:
            watch.look(await query_jobs(machine))
        except MachineEnded as exc:
            watch.lost()
            if watch.ending is None:
                raise click.ClickException(
                    f"{machine.control}: the machine has ended, and {watch.id} with it"
                ) from exc
    if watch.job is not None and watch.ending is not None:
        screen.end(watch.job, watch.ending)


async def _until_stirred(machine: Machine, stirring: Stirring, timeout_s: float) -> None:
    """Wait for an event of the job, the end of the session, or `timeout_s` seconds."""
    reasons = {
        asyncio.create_task(stirring.stirred.wait()),
        asyncio.create_task(disconnected(machine)),
    }
    await asyncio.wait(reasons, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in reasons:
        task.cancel()
    stirring.stirred.clear()
