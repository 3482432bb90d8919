# SPDX-License-Identifier: MIT
"""Something that is done when it is awaited, or for the length of a block."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar


class Entered(Protocol):
    """What can be the subject of `async with`, and is itself what is entered."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


T = TypeVar("T", bound=Entered)


class Doing(Generic[T]):
    """A call that has not been made yet: `await` makes it, `async with` also undoes it.

    Without either nothing happens, and Python warns that a coroutine was never
    awaited.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._done: T | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> T:
        self._done = await self._coroutine
        return await self._done.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._done is not None
        await self._done.__aexit__(kind, error, trace)
