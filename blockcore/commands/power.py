# SPDX-License-Identifier: MIT
"""Power loss: what volatile caches lose, and what a crash might leave."""

from __future__ import annotations

from blockcore.faults.dice import Dice, key_of
from blockcore.machine.crash_clones import drop_clone, make_clone
from blockcore.machine.machine import Machine
from blockcore.machine.power import Choose, PowerCut, cache_of
from blockcore.machine.write_log_file import save_write_log
from blockcore.qapi.names import QmpError, UInt32, UInt64
from blockcore.qapi.record import dataclass
from blockcore.qapi.schema import CommandTable
from blockcore.rules.crash_enumeration import enumerated
from blockcore.rules.crash_states import CrashKeep, CrashState, Left, chosen, state_named
from blockcore.rules.write_log import WriteLog

table = CommandTable()

LIMIT = 1000
"""How many states x-crash-enumerate returns unless told otherwise."""

LIMIT_MAX = 100_000
"""How many states it returns at most: they are made under the big lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRange:
    """Bytes that a medium refused to take, in which writes that were to be kept are lost."""

    offset: UInt64
    length: UInt64
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLoss:
    """What one cache has lost: the name of the state, and numbers of writes.

    A torn write is on the medium in part.  What is `refused` is not in the state.
    """

    node_name: str
    state: str
    kept: int
    dropped: int
    torn: int
    refused: list[RefusedRange]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusableNode:
    """A node that could not be opened after a power cut, and why."""

    node_name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCutInfo:
    """What a power cut did: numbers of writes, of all caches and of each."""

    kept: int
    dropped: int
    torn: int
    caches: list[CacheLoss]
    unusable: list[UnusableNode]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashStateInfo:
    """A state that a crash might leave: its name, and how many writes it keeps, drops and tears."""

    state: str
    kept: int
    dropped: int
    torn: int


@table.command("x-power-cut")
async def x_power_cut(
    machine: Machine,
    *,
    device: str | None = None,
    keep: CrashKeep | None = None,
    seed: UInt64 | None = None,
    torn: bool | None = None,
    state: str | None = None,
) -> PowerCutInfo:
    """Cut the power of a drive, or of all, and switch it on again.

    Writes that were neither flushed nor sent with FUA to a drive with
    cache.x-volatile=on are kept as `keep` says: `none` (the default), `all`, the first
    ones (`prefix`), or some at `random`; with `torn` also parts of them.  `seed`
    (default: the machine's) decides about chance.  Or `state` has the name of a state.
    `device` is a drive's id, or a node-name.  Clients are disconnected, held and
    hanging requests are dropped, jobs on the drive cancelled; io-status is ok.  Without
    `device` that is a reset: a stopped machine enters prelaunch.
    """
    if state is not None and device is None:
        raise QmpError("Parameter 'state' needs 'device'")
    choose = _choice(machine, keep, seed, torn, state)
    if state is not None and device is not None:
        cache_of(machine, device)
    cut = PowerCut(machine, device)
    await cut.carry_out(choose)
    caches = [_loss(cache.node_name, left) for cache, left in cut.left]
    return PowerCutInfo(
        kept=sum(one.kept for one in caches),
        dropped=sum(one.dropped for one in caches),
        torn=sum(one.torn for one in caches),
        caches=caches,
        unusable=[
            UnusableNode(node_name=node.node_name, reason=reason) for node, reason in cut.unusable
        ],
    )


def _loss(node_name: str, left: Left) -> CacheLoss:
    kept, dropped, torn = left.counts
    return CacheLoss(
        node_name=node_name,
        state=left.state.name,
        kept=kept,
        dropped=dropped,
        torn=torn,
        refused=[
            RefusedRange(offset=UInt64(low), length=UInt64(high - low), reason=reason)
            for low, high, reason in left.refused
        ],
    )


def _choice(
    machine: Machine,
    keep: CrashKeep | None,
    seed: UInt64 | None,
    torn: bool | None,
    state: str | None,
) -> Choose:
    """Return the choice of a state that arguments ask for; raise QmpError if they contradict."""
    if state is not None:
        others = {"keep": keep, "seed": seed, "torn": torn}
        for name, value in others.items():
            if value is not None:
                raise QmpError(f"'state' and '{name}' cannot be specified at the same time")
        return lambda _, log: state_named(state, log)
    how = CrashKeep.NONE if keep is None else keep
    if torn and how in (CrashKeep.NONE, CrashKeep.ALL):
        raise QmpError(f"Parameter 'torn' has no meaning with keep={how}")
    number = machine.seed if seed is None else seed

    def choose(node_name: str, log: WriteLog) -> CrashState:
        # Each cut of each cache has numbers of its own, which repeat with the same work.
        dice = Dice(key_of(f"{number} power {node_name} {log.last}"))
        return chosen(log, how, torn=bool(torn), dice=dice)

    return choose


@table.command("x-crash-enumerate")
def x_crash_enumerate(
    machine: Machine, *, device: str, limit: UInt32 | None = None, torn: bool | None = None
) -> list[CrashStateInfo]:
    """Return states that a crash at this moment might leave on the medium of a drive.

    All of them if they are at most `limit` (1000), else a sample of that number:
    nothing and everything, each write lost alone, each kept alone, each prefix, each
    tear, then others at random; of each its share if there are more.  Without `torn`
    (default: true) writes are kept whole.  `device` is a drive's id, or the node-name
    of a cache or of a node above one.
    """
    log = cache_of(machine, device).log
    count = LIMIT if limit is None else limit
    if not 0 < count <= LIMIT_MAX:
        raise QmpError(f"Parameter 'limit' expects a number from 1 to {LIMIT_MAX}")
    return [
        _shown(log, state)
        for state in enumerated(log, count, torn=True if torn is None else torn)
    ]


@table.command("x-crash-clone")
def x_crash_clone(
    machine: Machine,
    *,
    device: str,
    export: str,
    state: str | None = None,
    keep: CrashKeep | None = None,
    seed: UInt64 | None = None,
    torn: bool | None = None,
) -> CrashStateInfo:
    """Export what a crash at this moment would leave of a drive, beside the live drive.

    Nothing is copied.  `export` is the name of the new export, which can be read and
    written until x-crash-drop; what its clients write is in memory.  `state` names a
    state, or `keep`, `seed` and `torn` choose one as x-power-cut does.
    """
    choose = _choice(machine, keep, seed, torn, state)
    cache = cache_of(machine, device)
    chosen_state = choose(cache.node_name, cache.log)
    told = _shown(cache.log, chosen_state)
    make_clone(machine, cache, export, chosen_state)
    return told


@table.command("x-crash-drop")
async def x_crash_drop(machine: Machine, *, export: str) -> None:
    """End the export of a crash clone: its clients are disconnected, and its data is gone."""
    await drop_clone(machine, export)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteLogInfo:
    """How many writes a saved log has."""

    writes: int


@table.command("x-write-log-save")
async def x_write_log_save(machine: Machine, *, device: str, filename: str) -> WriteLogInfo:
    """Save the writes that a crash at this moment might lose, in the format of dm-log-writes.

    `filename` is a new file, or one that is overwritten.  `device` is a drive's id, or
    the node-name of a cache or of a node above one.
    """
    log = cache_of(machine, device).log
    return WriteLogInfo(writes=await save_write_log(machine, log, filename))


def _shown(log: WriteLog, state: CrashState) -> CrashStateInfo:
    kept, dropped, parts = state.counts(log)
    return CrashStateInfo(state=state.name, kept=kept, dropped=dropped, torn=parts)
