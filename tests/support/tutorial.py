# SPDX-License-Identifier: MIT
"""docs/tutorial.md as a script of the shell.

    .venv/bin/python tests/support/tutorial.py | scripts/on-release trixie bash

does all that it says in a clean system.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"

BLOCK = re.compile(r"^```(\w+) ?(.*)\n((?:.*\n)*?)```$", re.MULTILINE)

CHECK = """\
check() {
    sed -E 's/ in [0-9.]+s( .*)?$/ in Ns/' "$out" >"$out.masked"
    if [[ $1 == all ]]; then cmp "$out.masked" "$2"; return; fi
    while read -r line; do
        grep -qF -- "$line" "$out.masked" || { echo "missing: $line"; cat "$out"; return 1; }
    done <"$2"
}
"""


def script(*, install: bool) -> str:
    """All that is typed, with what is printed compared; with `install` from nothing."""
    lines = ["set -euo pipefail", "out=$(mktemp)", CHECK]
    for language, word, text in BLOCK.findall(TUTORIAL.read_text()):
        if language == "python":
            lines += [f"cat >{word} <<'EOF'", f"{text}EOF"]
        elif language == "text":
            how = "some" if word == "excerpt" else "all"
            lines.append(
                f"printf %s {shlex.quote(masked(text))} >$out.wanted; check {how} $out.wanted"
            )
        elif word != "install":
            # In this shell, which changes its directory.
            lines.append(f"{{ {text}}} >$out 2>&1 || {{ cat $out; exit 1; }}")
        elif install:
            lines.append(text)
    return "\n".join([*lines, "echo done", ""])


def masked(text: str) -> str:
    """Text without what differs from run to run, or is left out."""
    return re.sub(r" in [0-9.]+s$", " in Ns", text, flags=re.MULTILINE).replace("...\n", "\n")


if __name__ == "__main__":
    print(script(install=True))
