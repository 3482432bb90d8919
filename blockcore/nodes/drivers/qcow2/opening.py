# SPDX-License-Identifier: MIT
"""What is read, and made right, before an image can be used; and given back afterwards."""

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
    """Read the tables that are in memory as a whole; QmpError in QEMU's words."""
    try:
        await mapping.load()
    except OSError as exc:
        raise _failed("Could not read L1 table", exc) from None
    try:
        await refcounts.load()
    except OSError as exc:
        raise _failed("Could not initialize refcount handling", exc) from None


async def find_bitmaps(image: Image) -> list[StoredBitmap]:
    """The bitmaps that are stored in an image; QmpError in QEMU's words."""
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
    """Find out where metadata is; forget what programs without knowledge of it must; repair.

    QmpError if that would be bitmaps that nobody has said may go (`drop`).
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
            # Refcounts that are made anew leave them out.
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
    """The image is closed: give back what `make_writable` has found out."""
    if image.metadata.is_large():
        await LaneCall(OPENING, image.metadata.clear)


def _claim_all(image: Image, mapping: Mapping, refcounts: Refcounts) -> None:
    """Called without the lock: there may be millions of tables, and nobody uses the image yet."""
    image.claim(0, 1, HEADER)
    mapping.claim_all()
    refcounts.claim_all()


def _failed(what: str, exc: OSError) -> QmpError:
    return QmpError(f"{what}: {reason_of(exc)}")
