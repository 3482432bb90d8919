# SPDX-License-Identifier: MIT
"""Writes those modules of the client library that follow from others.

    .venv/bin/python scripts/generate_client.py

`aio/commands.py` and `schema.py` follow from the commands of the machine: a
method for each command, and a type for each struct and enum.  The modules of
`sync/` follow from those of `aio/`, which are the same text with `await`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from keyword import iskeyword
from pathlib import Path

from blockcore.commands.table import table
from blockcore.qapi.members import Member
from blockcore.qapi.schema import Command
from blockcore.qapi.types import Alternate, FlatUnion, Struct
from blockcore.qapi.visitor import Array, Builtin, Enumeration, QapiType, Unsigned

TREE = Path(__file__).resolve().parents[1]
CLIENT = TREE / "client" / "faultline"

BY_HAND = ("channel.py", "doing.py", "waiting.py")
"""Modules of `aio` that `sync` does not have, or has in a form of its own."""

SCALARS = {"str": "str", "int": "int", "bool": "bool", "number": "float", "any": "Any"}

MEMBERS_MAX = 40
"""The members of a command that are parameters of its method; it takes more as `**members`."""

BYTES = frozenset({"bytes", "buf-size", "granularity", "length", "offset", "size", "speed"})
"""Members of type int that are numbers of bytes; those of type size are anyway."""

HEADER = "# SPDX-License-Identifier: MIT\n# Written by scripts/generate_client.py from {source}.\n"


class Types:
    """The types that commands use, as Python declares them for JSON."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}
        self._seen: set[str] = set()

    def expression(self, type: QapiType | None) -> str:
        """Return the annotation of a type, as JSON has it."""
        match type:
            case None:
                return "None"
            case Unsigned():
                return "int"
            case Builtin():
                return SCALARS.get(type.name, "None")
            case Array():
                return f"list[{self.expression(type.element)}]"
            case Enumeration():
                self._declare(type.name, lambda: self._enum(type))
                return type.name
            case Alternate():
                return " | ".join(self.expression(choice) for choice in type.choices.values())
            case Struct():
                self._declare(type.name, lambda: self._struct(type.name, type.members, ()))
                return type.name
            case FlatUnion():
                self._declare(type.name, lambda: self._union(type))
                return type.name
        raise AssertionError(type)

    def _declare(self, name: str, text: object) -> None:
        if name not in self._seen:
            self._seen.add(name)
            assert callable(text)
            self.lines[name] = text()

    def _enum(self, type: Enumeration) -> str:
        values = "".join(f'    "{value}",\n' for value in type.values)
        return f"{type.name} = Literal[\n{values}]\n"

    def _union(self, type: FlatUnion) -> str:
        return self._struct(type.name, type.members, own_members(type))

    def _struct(self, name: str, members: Iterable[Member], more: Iterable[Member]) -> str:
        found: dict[str, str] = {}
        for member in members:
            text = self.expression(member.type)
            found[member.wire_name] = f"NotRequired[{text}]" if member.optional else text
        for member in more:
            text = f"NotRequired[{self.expression(member.type)}]"
            known = found.setdefault(member.wire_name, text)
            if known != text:
                found[member.wire_name] = "NotRequired[Any]"
        if all(wire.isidentifier() and not iskeyword(wire) for wire in found):
            body = "".join(f"    {wire}: {text}\n" for wire, text in found.items()) or "    pass\n"
            return f"class {name}(TypedDict):\n{body}"
        body = "".join(f'        "{wire}": "{text}",\n' for wire, text in found.items())
        return f'{name} = TypedDict(\n    "{name}",\n    {{\n{body}    }},\n)\n'


def own_members(union: FlatUnion) -> Iterator[Member]:
    """Yield the members that the values of a union's tag add."""
    for value in union.variants:
        yield from union.own_members(value)


def arguments_of(command: Command) -> tuple[list[Member], bool]:
    """Return the members of a command's arguments, and whether it takes more than these."""
    if not command.boxed:
        return list(command.members), False
    (only,) = command.members
    if isinstance(only.type, Struct):
        return list(only.type.members), False
    assert isinstance(only.type, FlatUnion)
    common = list(only.type.members)
    if only.type.default is not None:
        common = [optional(m) if m.wire_name == only.type.tag else m for m in common]
    own = {member.wire_name: member for member in own_members(only.type)}
    if len(common) + len(own) > MEMBERS_MAX:
        return common, True
    return common + [optional(member) for member in own.values()], False


def is_a_size(member: Member) -> bool:
    """Return whether an argument is a number of bytes, so that users may write ``64k``."""
    if not isinstance(member.type, Builtin | Unsigned):
        return False
    name = member.type.name
    return name == "size" or (name == "int" and member.wire_name in BYTES)


def optional(member: Member) -> Member:
    """Return a member that need not be given."""
    return Member(member.python_name, member.wire_name, member.type, True, member.origin)


def method(command: Command, types: Types) -> str:
    """Return the text of a command's method."""
    members, more = arguments_of(command)
    members.sort(key=lambda member: member.optional)
    parameters, values = [], []
    for member in members:
        is_size = is_a_size(member)
        text = "Size" if is_size else types.expression(member.type)
        name = member.wire_name.replace("-", "_")
        parameters.append(
            f"{name}: {text} | None = None" if member.optional else f"{name}: {text}"
        )
        values.append(f'"{member.wire_name}": {f"size_of({name})" if is_size else name}')
    parameters.append("timeout: float | None = None")
    if more:
        parameters.append("**members: Any")
        values.append("**wire_names(members)")
    returns = types.expression(command.returns)
    name = command.name.replace("-", "_")
    lines = [f"    async def {name}(", "        self,", "        *,"]
    lines += [f"        {parameter}," for parameter in parameters]
    if more:
        lines[-1] = lines[-1].removesuffix(",")
    lines += [f"    ) -> {returns}:", docstring(command)]
    call = ["await self._run(", f'            "{command.name}",', "            {"]
    call += [f"                {value}," for value in values]
    call += ["            },", "            timeout,", "        )"]
    if returns == "None":
        return "\n".join([*lines, "        " + "\n".join(call), ""])
    return "\n".join([*lines, f"        result: {returns} = " + "\n".join(call),
                      "        return result", ""])


def docstring(command: Command) -> str:
    """Return the docstring of a method: the help of its command."""
    first, _, rest = command.help.partition("\n\n")
    text = f'"""{" ".join(first.split())}'
    if rest:
        text = f"{text}\n\n{rest}\n"
    lines = [
        line
        for paragraph in text.split("\n")
        for line in (textwrap.wrap(paragraph, 88) or [""])
    ]
    quoted = "\n".join(lines) + '"""'
    return textwrap.indent(quoted, "        ").rstrip()


def commands_and_types() -> tuple[str, str]:
    """Return the texts of `aio/commands.py` and of `schema.py`."""
    types = Types()
    methods = [
        method(command, types)
        for command in sorted(table, key=lambda command: command.name)
        if command.name != "qmp_capabilities"
    ]
    body = "\n".join(methods)
    used = sorted(name for name in types.lines if re.search(rf"\b{name}\b", body))
    source = "the commands of blockcore"
    commands = [
        HEADER.format(source=source),
        '"""The commands of a machine, each a method, with the types of the schema."""\n\n',
        "from __future__ import annotations\n\n",
        "from collections.abc import Mapping\nfrom typing import Any\n\n",
        "from faultline.schema import (\n",
        *(f"    {name},\n" for name in used),
        ")\nfrom faultline.sizes import Size, size_of\nfrom faultline.wire import wire_names\n\n\n",
        "class Commands:\n",
        '    """All commands; each raises CommandError, TimedOut and MachineEnded.\n\n',
        "    Sizes may be texts such as \"64k\"; `timeout` is the deadline, in seconds.\n",
        '    """\n\n',
        "    async def _run(\n        self, command: str, members: Mapping[str, Any],",
        " timeout: float | None\n    ) -> Any:\n        raise NotImplementedError\n\n",
        body,
    ]
    open_ended = {
        command.name: types.expression(command.members[0].type)
        for command in sorted(table, key=lambda command: command.name)
        if arguments_of(command)[1]
    }
    events = {name: types.expression(Struct(table.events[name])) for name in sorted(table.events)}
    declarations = "\n\n".join(types.lines[name] for name in sorted(types.lines))
    schema = [
        HEADER.format(source=source),
        '"""The types of the schema, as JSON has them: structs are dicts, enums texts."""\n\n',
        "from __future__ import annotations\n\n",
        "from collections.abc import Mapping\n",
        "from typing import Any, Literal, NotRequired, TypedDict\n\n",
        "EVENTS = (\n",
        *(f'    "{name}",\n' for name in events),
        ")\n\"\"\"The names of the events that a machine of this package has.\"\"\"\n\n\n",
        declarations,
        "\n\nEVENT_DATA: Mapping[str, type] = {\n",
        *(f'    "{name}": {type},\n' for name, type in events.items()),
        "}\n\"\"\"The types of the data of events, by their names.\"\"\"\n",
        "\nARGUMENTS: Mapping[str, type] = {\n",
        *(f'    "{name}": {type},\n' for name, type in open_ended.items()),
        "}\n\"\"\"The types of the arguments of commands whose methods take `**members`.\"\"\"\n",
    ]
    return "".join(commands), "".join(schema)


def derived(text: str, name: str) -> str:
    """Return the synchronous form of a module of `aio`."""
    text = re.sub(r"^from faultline\.aio\.doing .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"Doing\[(\w+)\]", r"\1", text)
    text = without_parentheses(text, "Doing(")
    text = without_parentheses(text, "(await ", keep=r"[,:]| for | if ")
    for pattern, new in (
        (r"\basync (def|with|for)\b", r"\1"),
        (r"\bawait ", ""),
        (r"__a(enter|exit|iter|next)__", r"__\1__"),
        (r"\banext\b", "next"),
        (r"\bStopAsyncIteration\b", "StopIteration"),
        (r"\bfaultline\.aio\b", "faultline.sync"),
        (r"\bon an event loop\b", "without an event loop"),
    ):
        text = re.sub(pattern, new, text)
    if "Written by" not in text:
        licence, rest = text.split("\n", 1)
        text = HEADER.format(source=f"aio/{name}") + rest
        assert HEADER.startswith(licence)
    return text


def without_parentheses(text: str, opening: str, keep: str | None = None) -> str:
    """Drop `opening`, which ends with or begins with a parenthesis, and what closes it."""
    at = 0
    while (at := text.find(opening, at)) >= 0:
        begin = text.index("(", at)
        depth, end = 0, begin
        while True:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if depth == 0:
                break
            end += 1
        inner = text[begin + 1 : end]
        before = text[at - 1] if at else " "
        if (keep and re.search(keep, re.sub(r"\(.*\)", "", inner))) or (
            opening.startswith("(") and re.match(r"[\w)\]]", before)
        ):
            at = begin + 1
            continue
        text = text[:at] + inner + text[end + 1 :]
    return text


def sorted_imports(text: str) -> str:
    """Return a module with its imports in order."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--quiet", "--fix-only", "--select", "I",
         "--stdin-filename", str(CLIENT / "module.py"), "-"],
        input=text, capture_output=True, text=True, check=True, cwd=TREE,
    )
    return done.stdout


def written() -> dict[Path, str]:
    """Return the text of each module that is written, by its path."""
    commands, schema = commands_and_types()
    texts = {CLIENT / "aio" / "commands.py": commands, CLIENT / "schema.py": schema}
    for path in sorted((CLIENT / "aio").glob("*.py")):
        if path.name not in BY_HAND and path.name != "__init__.py":
            source = texts.get(path) or path.read_text()
            texts[CLIENT / "sync" / path.name] = derived(source, path.name)
    return {path: sorted_imports(text) for path, text in texts.items()}


def main() -> None:
    """Write the modules."""
    for path, text in written().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
