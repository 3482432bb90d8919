# SPDX-License-Identifier: MIT
"""Steps that prepare an image for use, and the step that frees their results."""

from __future__ import annotations

from blockcore.bql.effects import LaneCall
from blockcore.nodes.driver import OPENING
from blockcore.nodes.drivers.qcow2.extensions import BITMAPS
from blockcore.nodes.drivers.qcow2.header import AUTOCLEAR_AT, DIRTY
from blockcore.nodes.drivers.qcow2.image import HEADER, MAX_FILE, Image
from blockcore.nodes.drivers.qcow2.mapping import Mapping
from blockcore.nodes.drivers.qcow2.refcount import Refcounts
from blockcore.nodes.drivers.qcow2.repair import repair
from blockcore.nodes.drivers.qcow2.stored_bitmaps import StoredBitmap, drop_bitmaps, read_bitmaps
from blockcore.nodes.drivers.qcow2.write_back import WriteBack
from blockcore.qapi.errnos import reason_of
from blockcore.qapi.names import QmpError


async def load_tables(mapping: Mapping, refcounts: Refcounts) -> None:
    """Read the L1 table and the refcount table, which stay in memory as a whole.

    Raises QmpError in QEMU's words.
    """
    try:
        await mapping.load()
    except OSError as exc:
        raise _failed("Could not read L1 table", exc) from None
    try:
        await refcounts.load()
    except OSError as exc:
        raise _failed("Could not initialize refcount handling", exc) from None


async def find_bitmaps(image: Image) -> list[StoredBitmap]:
    """Return the bitmaps that are stored in an image; raise QmpError in QEMU's words."""
    try:
        bitmaps = await read_bitmaps(image)
    except OSError as exc:
        raise _failed("Failed to read bitmap directory", exc) from None
    if image.header.size > MAX_FILE:
        raise QmpError("Could not refresh total sector count: File too large")
    return bitmaps


async def make_writable(
    image: Image,
    mapping: Mapping,
    write_back: WriteBack,
    bitmaps: list[StoredBitmap],
    *,
    drop: bool,
) -> None:
    """Prepare an image for writing.

    1. Find out which clusters hold metadata, so that no write hits them.
    2. Drop stored bitmaps, and clear the autoclear bits, as the format requires of
       a program that does not keep the features behind them up to date.
    3. Repair the refcounts if the image was not closed.

    Raises QmpError; also if there are bitmaps and `drop` does not allow to remove them.
    """
    if bitmaps and not drop:
        names = ", ".join(f"'{bitmap.name}'" for bitmap in bitmaps)
        raise QmpError(
            f"The image has stored bitmaps ({names}), which writing would invalidate: open it"
            " read-only, or with x-drop-bitmaps=on to remove them"
        )
    await LaneCall(OPENING, _claim_all, image, mapping, write_back.refcounts)
    dirty = bool(image.header.incompatible & DIRTY)
    try:
        if any(kind == BITMAPS for kind, _ in image.header.extensions):
            # Dirty refcounts may be too low to count down; the repair below counts again,
            # without the bitmaps.
            await drop_bitmaps(image, write_back, bitmaps, free=not dirty)
        if image.header.autoclear:
            await image.write_header(AUTOCLEAR_AT, bytes(8))
            image.header.autoclear = 0
    except OSError as exc:
        raise _failed("Could not update qcow2 header", exc) from None
    if dirty:
        try:
            await repair(image, mapping, write_back)
        except OSError as exc:
            raise _failed("Could not repair dirty image", exc) from None


async def forget_tables(image: Image) -> None:
    """Free the results of `make_writable` after an image was closed.

    If they are large they are freed in a lane, so that the big lock is not held meanwhile.
    """
    if image.metadata.is_large():
        await LaneCall(OPENING, image.metadata.clear)


def _claim_all(image: Image, mapping: Mapping, refcounts: Refcounts) -> None:
    """Claim all metadata; runs in a lane without the big lock.

    There may be millions of tables.  Nothing else looks at `image` yet: the node
    is still being opened.
    """
    image.claim(0, 1, HEADER)
    mapping.claim_all()
    refcounts.claim_all()


def _failed(what: str, exc: OSError) -> QmpError:
    return QmpError(f"{what}: {reason_of(exc)}")
