# SPDX-License-Identifier: MIT
"""Values of a file that know where they stand, and the error that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from faultline.errors import FaultlineError


class ScenarioError(FaultlineError):
    """A scenario file makes no sense; one line, with file, line and field.

    >>> raise ScenarioError("late.yaml: line 7: steps[0]: there is no step 'wiat'")
    Traceback (most recent call last):
    ...
    faultline.scenario.values.ScenarioError: late.yaml: line 7: steps[0]: there is no step 'wiat'
    """


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a file.

    `data` is a scalar as YAML reads it, a dict of values by name, or a list of
    values; `text` what was typed, for scalars only.  `field` is where it is within the
    file, such as ``steps[2].wait``, and empty for the file itself.
    """

    data: Any
    file: str
    line: int
    field: str
    text: str | None = None

    def wrong(self, message: str) -> NoReturn:
        """Raise ScenarioError with the place of this value."""
        where = f"{self.field}: " if self.field else ""
        text = " ".join(f"{where}{message}".split())
        raise ScenarioError(f"{self.file}: line {self.line}: {text}")

    def mapping(self, what: str) -> dict[str, Value]:
        """Return the members; raises ScenarioError if it has none, saying that it is `what`."""
        if not isinstance(self.data, dict):
            self.wrong(f"it is {what}")
        return self.data

    def items(self, what: str) -> list[Value]:
        """Return the elements of a list; raises ScenarioError."""
        if not isinstance(self.data, list):
            self.wrong(f"it is a list of {what}")
        return self.data

    def word(self, what: str) -> str:
        """Return what was typed; raises ScenarioError for no text, and for what is no scalar."""
        if self.text is None or self.data is None or not self.text.strip():
            self.wrong(f"it is {what}")
        return self.text

    def plain(self) -> Any:
        """Return the value without its places."""
        if isinstance(self.data, dict):
            return {name: value.plain() for name, value in self.data.items()}
        if isinstance(self.data, list):
            return [value.plain() for value in self.data]
        return self.data
