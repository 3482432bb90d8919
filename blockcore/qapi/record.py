# SPDX-License-Identifier: MIT
"""`dataclass`, which makes a class in a quarter of the time.

The standard library writes and compiles seven methods for each class.  All but `__init__`
are as good if they are written once, for all classes.  A machine makes a hundred classes
until it is ready; with `dataclasses.dataclass` that was a sixth of the time.

To mypy this is `dataclasses.dataclass`, and mypy alone sees to it that nobody changes what
is frozen.  In return an instance is made in a third of the time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass as dataclass
from typing import Any


def _repr(self: Any) -> str:
    shown = (f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self))
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _values(record: Any) -> tuple[Any, ...]:
    return tuple([getattr(record, each.name) for each in dataclasses.fields(record)])


def _eq(self: Any, other: Any) -> Any:
    return _values(self) == _values(other) if type(other) is type(self) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _dataclass(
    cls: Any = None, *, eq: bool = True, frozen: bool = False, **options: Any
) -> Any | Callable[[Any], Any]:
    """Make a class a dataclass; `options` are `init`, `kw_only` and `slots`.

    Methods that the class itself has are kept, as `dataclasses.dataclass` keeps them.
    """

    def make(cls: Any) -> Any:
        own = cls.__dict__
        methods: dict[str, Any] = {} if "__repr__" in own else {"__repr__": _repr}
        if eq:
            methods |= {} if "__eq__" in own else {"__eq__": _eq}
            # A class with an __eq__ of its own, and without a __hash__, has the __hash__ None.
            methods |= {} if own.get("__hash__") else {"__hash__": _hash if frozen else None}
        # The signature, which is the documentation of a class without any, takes long to make.
        cls.__doc__ = cls.__doc__ or cls.__name__
        made = dataclasses.dataclass(cls, eq=False, repr=False, **options)
        for name, method in methods.items():
            setattr(made, name, method)
        return made

    return make if cls is None else make(cls)


globals()["dataclass"] = _dataclass
