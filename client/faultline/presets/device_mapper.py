# SPDX-License-Identifier: MIT
"""Tables of the device mapper: the targets flakey, delay and error, beside linear and dust.

The drive is the device that the table makes, and its own medium: what a target is
mapped to says nothing about faults.  Rules are about the target's part of the
drive.  Flushes have no place: those of flakey and delay are about all, as the device
mapper sends a flush to all such targets.

From the kernel's drivers/md/dm-flakey.c, dm-delay.c and dm-target.c, and
Documentation/admin-guide/device-mapper.
"""

from __future__ import annotations

from faultline.presets.words import SECTOR, WRITES, Rule, line, lines, refuse, whole

PROBABILITY_BASE = 1_000_000_000
"""What dm-flakey's probabilities are out of."""


def rules(text: str, directory: str) -> list[Rule]:
    """Return the rules of a table; `directory` is of no use."""
    found: list[Rule] = []
    for number, words in lines(text):
        with line(number):
            found += target(words)
    return found


def target(words: list[str]) -> list[Rule]:
    """Return the rules of one line, as `dmsetup create` takes and `dmsetup table` prints it."""
    if words[0].endswith(":"):
        words = words[1:]
    if len(words) < 3:
        refuse(" ".join(words), "a table line is START LENGTH TARGET ..., in sectors")
    start, length = whole(words[0], "the start"), whole(words[1], "the length")
    place = {"offset": start * SECTOR, "length": length * SECTOR}
    if words[2] == "flakey":
        return flakey(place, words[3:])
    if words[2] == "delay":
        return delay(place, words[3:])
    if words[2] == "error":
        return [{"iotype": ["read", *WRITES], "errno": "EIO", **place}]
    if words[2] not in ("linear", "dust"):
        refuse(words[2], "the targets are flakey, delay, error, linear and dust")
    return []


def delay(place: Rule, words: list[str]) -> list[Rule]:
    """Return the rules of a delay target: DEVICE OFFSET MS, for reads, writes and flushes."""
    if len(words) not in (3, 6, 9):
        refuse(" ".join(words), "a delay target has DEVICE OFFSET MS once, twice or three times")
    for at in range(3, len(words), 3):
        if words[at : at + 2] != words[:2]:
            refuse(words[at], "a drive has one medium, which is that of reads too")
    times = [whole(word, "a delay") for word in words[2::3]]
    read, write, flush = (*times, *times[-1:] * (3 - len(times)))
    wanted = (({"iotype": "read", **place}, read), ({"iotype": WRITES, **place}, write))
    return [
        {"action": "delay", **rule, "delay-ms": ms}
        for rule, ms in (*wanted, ({"iotype": "flush"}, flush))
        if ms
    ]


def flakey(place: Rule, words: list[str]) -> list[Rule]:
    """Return the rules of a flakey target: DEVICE OFFSET UP DOWN [N FEATURE...]."""
    if len(words) < 4:
        refuse(" ".join(words), "a flakey target has DEVICE OFFSET UP DOWN [N FEATURE...]")
    whole(words[1], "the offset")
    up, down = whole(words[2], "the up interval"), whole(words[3], "the down interval")
    if not up + down:
        refuse(words[3], "the up and the down interval are both zero")
    features = words[5:]
    if len(words) > 4 and whole(words[4], "the number of features") != len(features):
        refuse(words[4], f"there are {len(features)} words of features")
    times = {"up-ms": up * 1000, "down-ms": down * 1000} if up else {}
    found = _Features(features).rules(place)
    return [{**rule, **times} for rule in found] if down else []


class _Features:
    """What becomes of requests while a flakey target is down."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._taken: dict[str, Rule] = {}
        while self._words:
            name = self._next()
            known = FEATURES.get(name.lower())
            if known is None:
                refuse(name, f"the features of flakey are {', '.join(FEATURES)}")
            known(self)
        self._refuse_contradictions()

    def _next(self) -> str:
        if not self._words:
            raise ValueError("a feature of flakey lacks a word")
        word, *self._words = self._words
        return word

    def _take(self, name: str, rule: Rule) -> None:
        if name in self._taken:
            refuse(name, "it is given twice")
        self._taken[name] = rule

    def error_reads(self) -> None:
        self._take("error_reads", {"iotype": "read", "errno": "EIO"})

    def error_writes(self) -> None:
        self._take("error_writes", {"iotype": WRITES, "errno": "EIO"})

    def drop_writes(self) -> None:
        self._take("drop_writes", {"action": "drop", "iotype": WRITES})

    def corrupt_bio_byte(self) -> None:
        at = whole(nth := self._next(), "the number of the byte")
        if not at:
            refuse(nth, "bytes count from 1")
        direction = self._next()
        if direction.lower() not in ("r", "w"):
            refuse(direction, "the direction is r or w")
        value = whole(word := self._next(), "the value")
        if value > 255:
            refuse(word, "the value is from 0 to 255")
        flags = self._next()
        if whole(flags, "the mask of flags"):
            refuse(flags, "a rule does not see the kernel's flags of a bio; 0 is any")
        rule = {"action": "corrupt", "how": "byte", "at": at - 1, "value": value}
        if "corrupt_r" in self._taken or "corrupt_w" in self._taken:
            refuse("corrupt_bio_byte", "it is given twice")
        self._take(f"corrupt_{direction.lower()}", rule)

    def _random(self, name: str) -> None:
        chance = whole(word := self._next(), "the probability")
        if chance > PROBABILITY_BASE:
            refuse(word, f"the probability is from 0 to {PROBABILITY_BASE}")
        rule = {"action": "corrupt", "how": "byte", "rate": chance / PROBABILITY_BASE}
        self._take(name, rule)

    def random_read_corrupt(self) -> None:
        self._random("random_read_corrupt")

    def random_write_corrupt(self) -> None:
        self._random("random_write_corrupt")

    def _refuse_contradictions(self) -> None:
        for one, other in EXCLUSIVE:
            if one in self._taken and other in self._taken:
                words = {"corrupt_r": "corrupt_bio_byte", "corrupt_w": "corrupt_bio_byte"}
                refuse(words.get(other, other), f"it excludes {words.get(one, one)}")

    def rules(self, place: Rule) -> list[Rule]:
        """Return the rules, without their times."""
        if not self._taken:
            self.error_reads()
            self.error_writes()
        found = []
        for name, rule in self._taken.items():
            if rule.get("how") == "byte":
                reads = name in ("corrupt_r", "random_read_corrupt")
                rule = {**rule, "iotype": "read" if reads else "write"}
                rule |= {} if reads else {"medium": True}
            found.append({**rule, **place})
            if name in ("error_writes", "drop_writes"):
                found.append({**rule, "iotype": "flush"})
        return found


FEATURES = {
    name: getattr(_Features, name)
    for name in (
        *("error_reads", "drop_writes", "error_writes", "corrupt_bio_byte"),
        *("random_read_corrupt", "random_write_corrupt"),
    )
}

EXCLUSIVE = (
    ("drop_writes", "error_writes"),
    *((one, other) for one in ("drop_writes", "error_writes") for other in ("corrupt_w",)),
    # A request is hit by one rule only.
    *(("error_reads", "corrupt_r"), ("corrupt_r", "random_read_corrupt")),
    *(("corrupt_w", "random_write_corrupt"), ("error_reads", "random_read_corrupt")),
    *((one, "random_write_corrupt") for one in ("drop_writes", "error_writes")),
)
"""Features of which a table has one only: the kernel says so, or one of them has no effect."""
