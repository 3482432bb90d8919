# SPDX-License-Identifier: MIT
"""What a replayed machine finds: the files of the recorded one, below a directory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from faultline.recording import BadRecording, Recording, contents, placed, unplaced


def build_files(recording: Recording, root: Path, images: Mapping[str, str]) -> None:
    """Make the recorded files below `root`, each where it was, with what it had.

    Those of drives that `images` names are links to the images.  Raises
    BadRecording for a file that has to have contents and of which none were recorded, and
    for an image that cannot be opened.
    """
    header = recording.header
    directory = header["directory"]
    (root / directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
    replaced = _replaced(recording, images)
    _check_images(recording, images)
    for file in header["files"]:
        path = root / os.path.join(directory, file["filename"]).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if file["filename"] in replaced:
            path.symlink_to(os.path.abspath(replaced[file["filename"]]))
        elif "contents" in file or _may_be_empty(recording, file):
            _build(path, file)
        else:
            raise BadRecording(
                f"{recording.name}: it does not have what was in {file['filename']}"
                ", which is no plain disk: give an image by --drive ID=FILE"
            )


def _check_images(recording: Recording, images: Mapping[str, str]) -> None:
    """Raise BadRecording, which names what was given, for an image that cannot be opened."""
    readonly = {one["id"] for one in recording.header["drives"] if one.get("read-only")}
    for drive, image in images.items():
        access = os.O_RDONLY if drive in readonly else os.O_RDWR
        try:
            os.close(os.open(image, access | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as exc:
            raise BadRecording(f"Could not open '{image}': {exc.strerror}") from None


def named_as_given(
    text: str, recording: Recording, root: str, images: Mapping[str, str]
) -> str:
    """Return what a machine has said, with its files named as recorded, and images as given."""
    text = unplaced(text, root)
    for filename, image in _replaced(recording, images).items():
        whole = rf"(?<![\w./-]){re.escape(filename)}(?![\w./-])"
        text = re.sub(whole, image.replace("\\", r"\\"), text)
    return text


def _build(path: Path, file: Mapping[str, Any]) -> None:
    with path.open("xb") as out:
        os.truncate(path, file["size"])  # whose error names the file
        for offset, parts in file.get("contents", ()):
            out.seek(offset)
            out.write(contents(parts))


def _replaced(recording: Recording, images: Mapping[str, str]) -> dict[str, str]:
    """Return the images by the names of the files that they replace."""
    found = {}
    for drive, image in images.items():
        known = {one["id"]: one for one in recording.header["drives"]}
        if drive not in known:
            names = ", ".join(known) or "none"
            raise BadRecording(f"{recording.name}: it has no drive '{drive}' (it has {names})")
        filename = known[drive].get("filename")
        if filename is None:
            raise BadRecording(f"{recording.name}: drive '{drive}' is on no file")
        found[filename] = image
    return found


def _may_be_empty(recording: Recording, file: Mapping[str, Any]) -> bool:
    """Return whether holes will do for a file: if it is that of raw drives only."""
    users = [one for one in recording.header["drives"] if one.get("filename") == file["filename"]]
    return bool(users) and all(one["driver"] == "raw" for one in users)


def keys_of(recording: Recording, root: str) -> list[str]:
    """Return the keys of the replayed machine."""
    return [f"{key}={placed(value, root)}" for key, value in recording.header["keys"]]


def set_file(root: str, name: str, exists: bool) -> None:
    """Let there be a file of that absolute name below `root`, or none; directories stay."""
    path = Path(f"{root}{os.path.normpath(name)}")
    if exists:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.touch()
    elif not path.is_dir():
        path.unlink(missing_ok=True)


def export_uri(ready: Mapping[str, Any], export: str) -> str:
    """Return the NBD URI of an export, also of one that came after the ready line.

    >>> export_uri({"drives": {"a": "nbd+unix:///a?socket=s"}}, "b c")
    'nbd+unix:///b%20c?socket=s'
    """
    known: Mapping[str, str] = ready["drives"]
    if export in known:
        return known[export]
    if not known:
        raise BadRecording(f"a guest has connected to '{export}', and there was no drive at first")
    head, mark, query = next(iter(known.values())).partition("?")
    start = head.index("/", head.index("://") + 3)
    return f"{head[:start]}/{quote(export, safe='')}{mark}{query}"
