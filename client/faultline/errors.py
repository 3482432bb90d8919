# SPDX-License-Identifier: MIT
"""What goes wrong for a client; every exception of this package is a `FaultlineError`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class FaultlineError(Exception):
    """The base of all exceptions of this package.

    >>> issubclass(TimedOut, FaultlineError) and issubclass(CommandError, FaultlineError)
    True
    """


class CommandError(FaultlineError):
    """An error reply of the machine, in its own words.

    `command` is the command's name; `error_class` QEMU's class, which is
    "GenericError" for most errors; `text` the message.

    >>> error = CommandError("block_resize", {"class": "GenericError", "desc": "No medium"})
    >>> str(error), error.error_class, error.text
    ('block_resize: No medium', 'GenericError', 'No medium')
    """

    def __init__(self, command: str, error: Mapping[str, Any]) -> None:
        self.command = command
        self.error_class: str = error["class"]
        self.text: str = error["desc"]
        super().__init__(f"{command}: {self.text}")


class TimedOut(FaultlineError, TimeoutError):
    """The deadline of a call has passed; the message says what did not come.

    >>> issubclass(TimedOut, TimeoutError)
    True
    """


class ConnectFailed(FaultlineError, ConnectionError):
    """There is no QMP server at a path; the message begins with the path.

    >>> from faultline import Machine
    >>> Machine.connect("/nowhere.qmp")
    Traceback (most recent call last):
    ...
    faultline.errors.ConnectFailed: /nowhere.qmp: No such file or directory
    """


class StartFailed(FaultlineError):
    """A machine did not start; the message is what it has written on stderr.

    >>> from faultline import Machine
    >>> Machine("no-such.img").start()
    Traceback (most recent call last):
    ...
    faultline.errors.StartFailed: drive=file=no-such.img,id=vda: Could not open 'no-such.img': \
No such file or directory
    """


class MachineEnded(FaultlineError, ConnectionError):
    """The machine has ended, or has closed the connection; the message has its last log lines.

    >>> from faultline import Machine
    >>> with Machine() as m:  # doctest: +ELLIPSIS
    ...     m.quit()
    ...     m.wait_event("STOP", timeout=10)
    Traceback (most recent call last):
    ...
    faultline.errors.MachineEnded: the machine has ended (status 0) before STOP came; its log...
    """


class JobFailed(FaultlineError):
    """A job has ended with an error, or was cancelled; `error` is QEMU's text, None if cancelled.

    >>> str(JobFailed("m0", "Input/output error"))
    'job m0 has failed: Input/output error'
    """

    def __init__(self, job: str, error: str | None) -> None:
        self.job = job
        self.error = error
        super().__init__(
            f"job {job} was cancelled" if error is None else f"job {job} has failed: {error}"
        )


class JobStopped(FaultlineError):
    """An I/O error has paused a job that was waited for; `resume` lets it try again.

    >>> str(JobStopped("m0", "nospace"))
    'job m0 is stopped by an error (io-status nospace): resume() lets it try again'
    """

    def __init__(self, job: str, io_status: str) -> None:
        self.job = job
        self.io_status = io_status
        super().__init__(
            f"job {job} is stopped by an error (io-status {io_status}): "
            "resume() lets it try again"
        )
