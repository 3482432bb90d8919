# SPDX-License-Identifier: MIT
"""The example of a Containerfile as a script of the shell, for where there is no podman.

    .venv/bin/python tests/support/container.py | scripts/on-release trixie bash

does in a clean system what its stages do, one after the other in the same system, and then runs the
entry point as its user, with the probe of the Kubernetes example.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

CONTAINERFILE = (
    Path(__file__).resolve().parents[2] / "scripts" / "examples" / "container" / "Containerfile"
)

PROBE = """\
cd / && chmod 755 /opt
apt-get purge --yes --autoremove python3-venv >/dev/null
$as_user %s drive=id=vda,size=64M >/tmp/ready &
until [[ -s /tmp/ready ]]; do kill -0 $!; sleep 0.1; done
cat /tmp/ready
$as_user faultline qmp -s /run/faultline/qmp query-status
kill $!; wait $!
[[ ! $(ls /run/faultline) ]] && echo done
"""


def instructions() -> list[tuple[str, str]]:
    """Return the instructions, each with its arguments on one line."""
    text = re.sub(r"\\\n\s*", " ", CONTAINERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def script() -> str:
    """Return what the instructions do, as shell; the tree is where the script begins."""
    lines = ["set -euxo pipefail", "tree=$PWD"]
    for word, rest in instructions():
        if word == "RUN":
            lines.append(rest)
        elif word == "COPY" and not rest.startswith("--from"):
            source, target = rest.split()
            lines.append(f"cp -r $tree/{source} {target}")
        elif word == "ENV":
            lines.append(f"export {rest}")
        elif word == "USER":
            user, group = rest.split(":")
            lines.append(f'as_user="setpriv --reuid {user} --regid {group} --clear-groups"')
        elif word == "ENTRYPOINT":
            lines.append(PROBE % shlex.join(json.loads(rest)))
    return "\n".join(lines)


if __name__ == "__main__":
    print(script())
