# SPDX-License-Identifier: MIT
"""The display of a job while `faultline job wait` runs: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Protocol, Self

import click
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, Task, TextColumn
from rich.progress_bar import ProgressBar

from blockcore.cli.amounts import duration, shortened, size
from blockcore.cli.job_table import progress, shown_status
from faultline.job_info import JobInfo
from faultline.job_watch import Ending, Rate

STYLES = {
    "running": "blue",
    "ready": "green",
    "completed": "green",
    "aborting": "red",
    "cancelling": "red",
    "failed": "red",
    "cancelled": "red",
}
"""The colours of statuses and endings of a job; all other statuses are yellow."""


BAR_MIN = 8
ID_MIN = 8

OTHER_COLUMNS = sum((1 + 10, 1 + BAR_MIN, 1 + 17, 1 + 12, 1 + 12, len("^C") + 1))
"""The width of all columns but the id's, with the blanks between: status, bar, progress, speed,
time; and of the room for ^C (`Drawing`)."""


class Screen(Protocol):
    """The display of one job; `interval_s` is how often to look at the job, in seconds."""

    interval_s: float

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, job: JobInfo, rate: Rate) -> None:
        """Show the job as it is now, and how fast it is."""

    def say(self, line: str) -> None:
        """Print a line that stays."""

    def end(self, job: JobInfo, ending: Ending) -> None:
        """Show how the job ended, without the reason: the caller reports an error."""


def open_screen() -> Screen:
    """Return the screen that fits stdout: bars on a terminal, lines elsewhere."""
    console = Console(highlight=False)
    # isatty as well: rich takes a pipe for a terminal if FORCE_COLOR and the like are set.
    if sys.stdout.isatty() and console.is_interactive:
        return BarScreen(console)
    return LineScreen()


class LineScreen:
    """A screen that prints a line for every change of status, and for every tenth of the work."""

    interval_s = 1.0

    def __init__(self) -> None:
        self._shown: tuple[str, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, job: JobInfo, rate: Rate) -> None:
        shown = shown_status(job), job.current * 10 // job.total if job.total else 0
        if shown != self._shown:
            self._shown = shown
            self.say(describe(job, rate))

    def say(self, line: str) -> None:
        click.echo(line)

    def end(self, job: JobInfo, ending: Ending) -> None:
        if ending.error is None and ending.status == "completed":
            self.say(describe(job, None, ending.status))


def describe(job: JobInfo, rate: Rate | None, status: str | None = None) -> str:
    """Return ``j: running, 37.5% of 1.0 GiB, 10.0 MiB/s, 1:04 left``, as far as it is known."""
    words = [status or shown_status(job), progress(job)]
    if rate is not None:
        words += speed(job, rate), left(job, rate)
    return f"{job.id}: {', '.join(filter(None, words))}"


def speed(job: JobInfo, rate: Rate) -> str:
    """Return how fast a running job is, such as ``10.0 MiB/s``; empty if that is unknown."""
    if job.status != "running" or rate.bytes_per_s is None:
        return ""
    return f"{size(rate.bytes_per_s)}/s"


def left(job: JobInfo, rate: Rate) -> str:
    """Return how much longer a job will take, such as ``1:04 left``; empty if unknown."""
    seconds = rate.left_s(job)
    return "" if seconds is None else f"{duration(seconds)} left"


class BarScreen:
    """A screen with one line that is drawn again and again, and lines above it that stay."""

    interval_s = 0.25

    def __init__(self, console: Console) -> None:
        self._id_width = max(console.width - OTHER_COLUMNS, ID_MIN)
        # The texts have fixed widths, so that the bar between them keeps its width.
        self._progress = Drawing(
            TextColumn("{task.description} [{task.fields[style]}]{task.fields[status]:<10}"),
            StatusBar(bar_width=None),
            TextColumn("{task.fields[progress]:>17}"),
            TextColumn("{task.fields[speed]:>12}"),
            TextColumn("{task.fields[left]:>12}"),
            console=console,
            auto_refresh=False,
            expand=True,
        )
        self._task = self._progress.add_task("", visible=False)

    def __enter__(self) -> Self:
        self._progress.start()
        # rich hides the cursor; it would stay hidden if the process were killed.
        self._progress.console.show_cursor(True)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, job: JobInfo, rate: Rate) -> None:
        style = "red" if job.stopped else STYLES.get(shown_status(job), "yellow")
        self._draw(job, shown_status(job), style, speed(job, rate), left(job, rate))

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, soft_wrap=True)

    def end(self, job: JobInfo, ending: Ending) -> None:
        self._draw(job, ending.status, STYLES[ending.status])

    def _draw(
        self, job: JobInfo, status: str, style: str, speed: str = "", left: str = ""
    ) -> None:
        whole = job.total or 1
        self._progress.update(
            self._task,
            description=escape(shortened(job.id, self._id_width)),
            total=whole,
            completed=whole if status == "completed" else job.current,
            visible=True,
            status=status,
            style=style,
            progress=progress(job),
            speed=speed,
            left=left,
        )
        self._progress.refresh()


class Drawing(Progress):
    """A drawing that leaves room for the ^C that terminals print for an interrupt.

    Without the room, ^C would wrap to a new line, and the last drawing would
    appear below the one before, not over it.
    """

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.tasks:
            table = self.make_tasks_table(self.tasks)
            table.width = self.console.width - len("^C") - 1
            yield table


class StatusBar(BarColumn):
    """A bar in the colour of the job's status."""

    def render(self, task: Task) -> ProgressBar:
        bar = super().render(task)
        bar.complete_style = bar.finished_style = task.fields["style"]
        return bar
