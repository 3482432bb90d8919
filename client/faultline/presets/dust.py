# SPDX-License-Identifier: MIT
"""Messages to a dust target, and lists of its bad blocks, as rules of bad blocks.

Lines are the target's table line (START LENGTH dust DEVICE OFFSET BLOCK-SIZE), messages
as `dmsetup message` sends them, with that command before them or without, and
numbers of blocks as `listbadblocks` prints them.  What counts is the state at the end.

From the kernel's drivers/md/dm-dust.c.
"""

from __future__ import annotations

from faultline.presets.words import SECTOR, WRITES, Rule, line, lines, refuse, whole

BLOCK = 512
"""Bytes of a block where no table line says it."""

QUESTIONS = frozenset({"queryblock", "countbadblocks", "listbadblocks", "quiet"})
"""Messages that change nothing but what is told."""


def rules(text: str, directory: str) -> list[Rule]:
    """Return the rules of a text; `directory` is of no use."""
    dust = _Dust()
    for number, words in lines(text):
        with line(number):
            dust.take(words)
    return dust.rules()


class _Dust:
    """A dust target."""

    def __init__(self) -> None:
        self.block = BLOCK
        self.first = 0  # byte of the drive that is byte 0 of the target's device
        self.part: tuple[int, int] | None = None
        self.enabled: bool | None = None
        self.bad: dict[int, int] = {}  # number of a bad block: writes that fail before it heals

    def take(self, words: list[str]) -> None:
        if words[:2] == ["dmsetup", "message"]:
            words = words[4:]
        if words and words[0].endswith(":"):
            words = words[1:]
        match words:
            case [start, length, "dust", _, offset, block]:
                self._table(start, length, offset, block)
            case ["addbadblock", number]:
                self._add(number, 0)
            case ["addbadblock", number, times]:
                self._add(number, whole(times, "the number of writes that fail"))
            case ["removebadblock", number]:
                if self.bad.pop(whole(number, "a block"), None) is None:
                    refuse(number, "the block is not bad")
            case ["clearbadblocks"]:
                self.bad.clear()
            case ["enable" | "disable" as word]:
                self.enabled = word == "enable"
            case [word, *_] if word in QUESTIONS:
                """Nothing changes."""
            case [number] if number.isdigit():
                self._add(number, 0)
                # A list is of a target that is there; that its blocks fail is what is meant.
                self.enabled = True if self.enabled is None else self.enabled
            case _:
                refuse(" ".join(words), "it is no message to a dust target")

    def _table(self, start: str, length: str, offset: str, block: str) -> None:
        if self.part is not None:
            refuse(block, "there is one target only")
        begin = whole(start, "the start") * SECTOR
        self.block = whole(block, "the block size")
        if self.block < SECTOR or self.block & (self.block - 1):
            refuse(block, "the block size is a power of two, from 512 on")
        self.first = begin - whole(offset, "the offset") * SECTOR
        self.part = (begin, begin + whole(length, "the length") * SECTOR)

    def _add(self, word: str, times: int) -> None:
        number = whole(word, "a block")
        if number in self.bad:
            refuse(word, "the block is bad already")
        self.bad[number] = times

    def rules(self) -> list[Rule]:
        """Return the rules: runs of bad blocks, and writes that fail first."""
        if self.bad and self.enabled is None:
            refuse("enable", "it is missing, and a dust target reads its bad blocks until then")
        if not self.enabled:
            return []
        found: list[Rule] = []
        for number in sorted(self.bad):
            place = {"offset": self.first + number * self.block, "length": self.block}
            begin, end = self.part or (0, place["offset"] + self.block)
            if not begin <= place["offset"] < end:
                refuse(str(number), "the block is not in the target")
            if times := self.bad[number]:
                failing = {"iotype": WRITES, "errno": "EIO", "count": times}
                found.append({**failing, **place})
        for start, count in _runs(sorted(self.bad)):
            place = {"offset": self.first + start * self.block, "length": count * self.block}
            size = {"block-size": self.block} if self.block != BLOCK else {}
            found.append({"action": "badblock", **place, **size})
        return found


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Return sorted numbers as runs: the first of each, and how many there are."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and sum(found[-1]) == number:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((number, 1))
    return found
