# SPDX-License-Identifier: MIT
"""The wait for a job: looks at the job in intervals, and when an event says that it changed."""

from __future__ import annotations

import asyncio
from collections.abc import Set

import click
from qemu.qmp import EventListener, Message, QMPClient

from blockcore.cli.job_list import query_jobs
from blockcore.cli.job_screen import Screen, open_screen
from blockcore.cli.job_watch import EVENTS, Ending, JobWatch, Need, Rate
from blockcore.cli.session import ConnectionLost, disconnected, session

STOPPED_STATUS = 3
"""The exit status for a job that an error has stopped."""


class Stopped(click.ClickException):
    """The error for a job that an I/O error has stopped, where the user waits for that."""

    exit_code = STOPPED_STATUS


class JobListener(EventListener):
    """A listener that passes events to a `JobWatch`.

    `stirred` is set when an event makes another look at the job worth while.
    The QMP client calls `put` for the events that come before a reply before it
    delivers the reply, so the watch knows of them when it gets the reply.
    """

    def __init__(self, watch: JobWatch) -> None:
        super().__init__(EVENTS)
        self.stirred = asyncio.Event()
        self._watch = watch

    def listen_to(self, client: QMPClient) -> None:
        """Receive all events of a client's session; to be called before the session begins."""
        # The client's own listener would keep all events for ever.
        client.events.event_filter = lambda event: False
        client.register_listener(self)

    async def put(self, event: Message) -> None:
        if self.accept(event) and self._watch.take_event(event):
            self.stirred.set()


async def wait(path: str, job_id: str, until: Set[Need]) -> None:
    """Show a job until it has completed, or needs one of `until`.

    Raises ClickException if the job fails, is cancelled, or does not exist, or if
    the machine ends; Stopped if `until` has Need.STOPPED and an error stops it.
    """
    client, watch = QMPClient(), JobWatch(job_id)
    listener = JobListener(watch)
    listener.listen_to(client)
    async with session(client, path):
        watch.look(await query_jobs(client, path))
        if not watch.found:
            raise click.ClickException(
                f"there is no job '{job_id}'; one that is over is gone, unless it has"
                " auto-dismiss=false"
            )
        with open_screen() as screen:
            await _follow(client, path, listener, watch, until, screen)
    if watch.ending is None:
        if watch.need is Need.STOPPED:
            raise Stopped(str(watch.advice()))
    elif watch.ending.status != "completed":
        raise click.ClickException(f"{job_id}: {_why(watch.ending)}")


def _why(ending: Ending) -> str:
    return ending.error or ending.status


async def _follow(
    client: QMPClient,
    path: str,
    listener: JobListener,
    watch: JobWatch,
    until: Set[Need],
    screen: Screen,
) -> None:
    """Look at the job again and again, and show it, until it is over or needs one of `until`."""
    clock, rate = asyncio.get_running_loop().time, Rate()
    while watch.job is not None and watch.ending is None:
        rate.take(clock(), watch.job)
        screen.show(watch.job, rate)
        if watch.need in until:
            return
        if (news := watch.news()) is not None:
            screen.say(news)
        await _until_stirred(client, listener, screen.interval_s)
        try:
            watch.look(await query_jobs(client, path))
        except ConnectionLost as exc:
            watch.lost()
            if watch.ending is None:
                raise click.ClickException(
                    f"{path}: the machine has ended, and {watch.id} with it"
                ) from exc
    if watch.job is not None and watch.ending is not None:
        screen.end(watch.job, watch.ending)


async def _until_stirred(client: QMPClient, listener: JobListener, timeout_s: float) -> None:
    """Wait for an event of the job, the end of the session, or `timeout_s` seconds."""
    reasons = {
        asyncio.create_task(listener.stirred.wait()),
        asyncio.create_task(disconnected(client)),
    }
    await asyncio.wait(reasons, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in reasons:
        task.cancel()
    listener.stirred.clear()
