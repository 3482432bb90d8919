# SPDX-License-Identifier: MIT
"""Power loss: what a drive's volatile cache loses, and what a crash would leave."""

from __future__ import annotations

from itertools import count
from os import getpid
from typing import Any, Self

from faultline.aio.doing import Doing
from faultline.aio.lent import Lent
from faultline.aio.session import Session
from faultline.exploring import uri_of_export
from faultline.schema import CrashStateInfo, PowerCutInfo
from faultline.wire import wire_names

_NUMBERS = count(1)


class CrashClone(Lent):
    """An export of what a crash would leave of a drive, beside the live drive.

    `uri` is where it is, `export` its name.  `state` names what it has, `info` also has
    how many writes that are.  The end of a block drops it; no error if it, or the
    machine, is gone by then.

    >>> async with Machine(Drive(size="1M", id="vda", volatile=True)) as m:
    ...     async with m.crash_clone("vda", export="after") as clone:
    ...         print(clone.export, clone.state, clone.info["dropped"])
    after 1-0:none 0
    """

    def __init__(self, session: Session, export: str, uri: str, info: CrashStateInfo) -> None:
        self._session = session
        self.export = export
        self.uri = uri
        self.info = info

    def __str__(self) -> str:
        return self.uri

    def __repr__(self) -> str:
        return f"<CrashClone {self.export} {self.state}>"

    @property
    def state(self) -> str:
        """The name of the state that the clone was made with."""
        return self.info["state"]

    @classmethod
    async def make(cls, session: Session, uri: str, members: dict[str, Any]) -> Self:
        """Make a clone; `members` are those of x-crash-clone.  Raises CommandError."""
        info = await session.execute("x-crash-clone", wire_names(members))
        export = members["export"]
        return cls(session, export, uri_of_export(uri, export), info)

    async def drop(self) -> None:
        """End the export, and hang up on its clients; raises CommandError if it is gone."""
        await self._session.execute("x-crash-drop", {"export": self.export})

    async def _take_away(self) -> None:
        await self.drop()


class PowerLoss(Session):
    """What a machine can do with the power of its drives."""

    @property
    def uri(self) -> str:
        """The NBD URI of the first drive."""
        raise NotImplementedError

    async def power_cut(
        self,
        drive: str | None = None,
        *,
        keep: str | None = None,
        seed: int | None = None,
        torn: bool | None = None,
        state: str | None = None,
    ) -> PowerCutInfo:
        """Cut the power of a drive, or of all, and switch it on again.

        What neither a flush nor FUA has brought to the medium is lost, but for what
        `keep`, `seed` and `torn`, or the name of a `state`, say (x-power-cut).  Clients are
        disconnected.

        >>> async with Machine(Drive(size="1M", id="vda", volatile=True)) as m:
        ...     print((await m.power_cut("vda", keep="random", seed=1))["kept"])
        0
        """
        given = {"device": drive, "keep": keep, "seed": seed, "torn": torn, "state": state}
        info: PowerCutInfo = await self.execute("x-power-cut", wire_names(given))
        return info

    async def crash_states(
        self, drive: str, *, limit: int | None = None, torn: bool | None = None
    ) -> list[CrashStateInfo]:
        """Return states that a crash at this moment might leave of a drive, at most `limit`.

        Without `torn` (default: True) writes are kept whole (x-crash-enumerate).

        >>> async with Machine(Drive(size="1M", id="vda", volatile=True)) as m:
        ...     print([one["state"] for one in await m.crash_states("vda")])
        ['1-0:none']
        """
        given = {"device": drive, "limit": limit, "torn": torn}
        states: list[CrashStateInfo] = await self.execute("x-crash-enumerate", wire_names(given))
        return states

    def crash_clone(
        self,
        drive: str,
        state: str | None = None,
        *,
        keep: str | None = None,
        seed: int | None = None,
        torn: bool | None = None,
        export: str | None = None,
    ) -> Doing[CrashClone]:
        """Export what a crash at this moment would leave of a drive; the end of a block drops it.

        `state` is a name of `crash_states`, or `keep`, `seed` and `torn` choose one.
        `export` is the name of the export, made up if it is not given.

        >>> async with Machine(Drive(size="1M", id="vda", volatile=True)) as m:
        ...     for one in await m.crash_states("vda", limit=100):
        ...         async with m.crash_clone("vda", one["state"]) as clone:
        ...             print(clone.uri.startswith("nbd+unix:///vda-crash-"))
        True
        """
        name = f"{drive}-crash-{getpid()}-{next(_NUMBERS)}" if export is None else export
        members = {"device": drive, "export": name, "state": state}
        choice = {"keep": keep, "seed": seed, "torn": torn}
        return Doing(CrashClone.make(self, self.uri, members | choice))
