# SPDX-License-Identifier: MIT
"""The recording of this process's machine, from its first line to its last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from blockcore.bql.big_lock import BigLock
from blockcore.config.config import Config
from blockcore.drive.recording import Recording
from blockcore.machine.machine import Machine
from blockcore.process.recorder import Recorder, open_recording
from blockcore.process.recording_header import Described, described, files_in, header


class Recorded:
    """A machine and the file that it is recorded to; imported if the machine has ``record=``.

    The file is opened when this is made, before the machine's nodes, because some
    images are written to when they are opened.  Raises QmpError if the file cannot be had.
    `follow` is as for `Recorder`.
    """

    def __init__(
        self, machine: Machine, lock: BigLock, config: Config, follow: Callable[[], None]
    ) -> None:
        assert config.record is not None
        self._machine = machine
        self._lock = lock
        self._directory = machine.graph.directory
        fd = open_recording(self._directory, config.record)
        self._recorder = Recorder(fd, keeps_data=config.record_data, follow=follow)
        self._recording: Recording | None = None
        self._files: dict[str, Described] = {}
        for name in files_in(config):
            with contextlib.suppress(OSError):  # which who opens the file is told
                self._look(name)

    def look(self) -> None:
        """Look at the files that only the images have named; raises OSError."""
        for node in self._machine.graph.nodes.values():
            if node.driver == "file" and node.filename not in self._files:
                self._look(node.filename)

    def _look(self, name: str) -> None:
        self._files[name] = described(name, self._directory, data=self._recorder.keeps_data)

    def begin(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Write the first line, and record from now on; `pairs` are the machine's keys.

        Raises OSError if the line cannot be written.
        """
        machine, recorder = self._machine, self._recorder
        first = header(machine, pairs, self._files.values(), recorder.keeps_data)
        recorder.start(first, self._failed, self._lock.poke)
        self._recording = machine.record(recorder)

    def end(self) -> None:
        """Write the last line; called at the end of the process, perhaps more than once.

        Without the big lock, because nothing may keep the process from ending.
        """
        if self._recording is not None:
            self._recording.finish("the machine has ended")
            self._recorder.close()

    def _failed(self, reason: str) -> None:
        """Give up the recording, on the thread that writes it."""
        recording = self._recording
        assert recording is not None
        with self._lock.region():
            last = recording.last_line(reason)
            recording.give_up(reason)
        self._recorder.write_end(last)
