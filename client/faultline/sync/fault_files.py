# SPDX-License-Identifier: MIT
# Written by scripts/generate_client.py from aio/fault_files.py.
"""Several fault rules at once: given, of a file, or said in the language of another tool."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any, Self

from faultline.drives import Path
from faultline.errors import CommandError
from faultline.presets import translate
from faultline.rule_lines import armed_line, lines, located
from faultline.sync.lent import Lent
from faultline.sync.session import Session


class Faults(Lent):
    """Rules that have been added together: `ids` are their names on the control socket.

    `warnings` says why some hit nothing as things are, each with its line.  The end of a
    block removes them; no error if some, or the machine, are gone by then.

    >>> with Machine() as m:
    ...     with m.faults("vda,id=a,iotype=read", {"node-name": "vda", "id": "b"}) as rules:
    ...         print(rules.ids)
    ...         print(m.saved_faults(), end="")
    ['a', 'b']
    vda,id=a,iotype=read,errno=EIO
    vda,id=b,errno=EIO
    """

    def __init__(
        self, session: Session, ids: Iterable[str], warnings: Iterable[str] = ()
    ) -> None:
        self._session = session
        self.ids = list(ids)
        self.warnings = list(warnings)

    @classmethod
    def add(cls, session: Session, text: str, file: str | None = None) -> Self:
        """Add the rules that are the lines of a text, or of a file; raises CommandError."""
        try:
            reply = session.execute("x-fault-load", {"text": text})
        except CommandError as error:
            if file is None:
                raise
            told = {"class": error.error_class, "desc": located(error.text, file)}
            raise CommandError(error.command, told) from None
        return cls(session, reply["ids"], reply.get("warnings", ()))

    def remove(self) -> None:
        """Remove the rules; raises CommandError if one is gone, after the others are removed."""
        gone = None
        for id in self.ids:
            try:
                self._session.execute("x-fault-remove", {"id": id})
            except CommandError as error:
                gone = error
        if gone is not None:
            raise gone

    def _take_away(self) -> None:
        self.remove()


class FaultFiles(Session):
    """What a machine can do with several rules."""

    def faults(self, *rules: str | Mapping[str, Any]) -> Faults:
        """Add rules, or none if one is wrong; the end of a block removes them.

        Each is a text as behind ``fault=``, or has the members of x-fault-add.
        """
        return Faults.add(self, lines(rules))

    def load_faults(self, file: Path) -> Faults:
        """Add the rules of a file, a line each, or none if one is wrong.

        Raises OSError, ValueError if it is no UTF-8, and CommandError with the file and
        the line.
        """
        text = FilePath(file).read_text(encoding="utf-8")
        return Faults.add(self, text, os.fspath(file))

    def import_faults(self, language: str, text: str, node: str) -> Faults:
        """Add rules that are said in the language of another tool, to a node or drive.

        The languages are those of `faultline.presets`.  Raises ValueError, which names
        the word, for what is none of theirs or cannot be had.

        >>> with Machine() as m:
        ...     with m.import_faults("dm-error", "0 2048 error", "vda"):
        ...         print([rule["length"] for rule in m.x_query_faults()])
        [1048576]
        """
        return Faults.add(self, lines(translate(language, text, node, os.getcwd())))

    def saved_faults(self) -> str:
        """Return the rules that there are, as the text of a file that `load_faults` takes."""
        return lines(map(armed_line, self.execute("x-query-faults")))
