# SPDX-License-Identifier: MIT
"""YAML as values that know where they stand: file, line and field; no I/O.

Variables, ``${name}``, are replaced before a scalar is read, so that ``${size}`` may be a
number.  Tags, keys that are given twice and values that contain themselves are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import yaml

from faultline.names import did_you_mean
from faultline.scenario.values import ScenarioError, Value

VALUES_MAX = 10_000
"""Values of a file; aliases can make a short one as large as they like."""

DEPTH_MAX = 50
"""How deep values are within each other."""

VARIABLE = re.compile(r"\$(\$|\{([^}]*)\})")

SET = "set"
"""The member of a file that has the variables, with their defaults."""

FILES = "files"
"""The member that names scratch files; each is a variable with its path."""

STANDARD = re.compile(r"tag:yaml\.org,2002:(null|bool|int|float|str|timestamp|value|seq|map)")


def parsed(text: str, file: str, given: Mapping[str, str], directory: str) -> Value:
    """Return the value of a file's text; raises ScenarioError.

    `given` are variables that replace the file's; scratch files are in `directory`.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            raise ScenarioError(f"{file}: line 1: the file is empty")
        return _Reader(loader, file, _variables(loader, file, root, given, directory)).value(
            root, "", ()
        )
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        raise ScenarioError(f"{file}: {line}{exc.problem or exc.context}") from None
    except yaml.YAMLError as exc:
        raise ScenarioError(f"{file}: {' '.join(str(exc).split())}") from None
    except RecursionError:
        raise ScenarioError(f"{file}: it is too deep") from None


def _variables(
    loader: yaml.SafeLoader,
    file: str,
    root: yaml.Node,
    given: Mapping[str, str],
    directory: str,
) -> dict[str, str]:
    """Return all variables: those that the file declares, as they are or as they are given."""
    known: dict[str, str] = {}
    paths: dict[str, str] = {}
    for name, node in _pairs(root):
        if name == FILES:
            paths = {one: f"{directory}/{one}" for one, _ in _pairs(node)}
        if name == SET:
            members = _Reader(loader, file, None).value(node, SET, ())
            for one, value in members.mapping("a mapping from variables to values").items():
                known[one] = value.word("a text or a number")
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ScenarioError(f"{file}: there is no variable '{name}'{hint}")
    return {**known, **given, **paths}


def _pairs(node: yaml.Node) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield key.value, value


class _Reader:
    """Makes values of nodes; `variables` None: without replacing any."""

    def __init__(
        self, loader: yaml.SafeLoader, file: str, variables: Mapping[str, str] | None
    ) -> None:
        self._loader = loader
        self._file = file
        self._variables = variables
        self._left = VALUES_MAX

    def value(
        self, node: yaml.Node, field: str, above: tuple[yaml.Node, ...], line: int = 0
    ) -> Value:
        """Return the value of a node; `above` are the nodes around it, `line` that of its name."""
        line = line or node.start_mark.line + 1
        place = Value(None, self._file, line, field)
        self._left -= 1
        if self._left < 0:
            place.wrong(f"the file has more than {VALUES_MAX} values")
        if any(node is other for other in above):
            place.wrong("it contains itself")
        if len(above) > DEPTH_MAX:
            place.wrong("it is too deep")
        if not STANDARD.fullmatch(node.tag):
            place.wrong(f"tags such as {node.tag} have no meaning here")
        above = (*above, node)
        if isinstance(node, yaml.MappingNode):
            return Value(self._members(node, place, above), self._file, line, field)
        if isinstance(node, yaml.SequenceNode):
            items = [
                self.value(item, f"{field}[{at}]", above) for at, item in enumerate(node.value)
            ]
            return Value(items, self._file, line, field)
        return self._scalar(node, place)

    def _members(
        self, node: yaml.MappingNode, place: Value, above: tuple[yaml.Node, ...]
    ) -> dict[str, Value]:
        members: dict[str, Value] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                place.wrong("a name is a text")
            field = f"{place.field}.{key.value}" if place.field else key.value
            line = key.start_mark.line + 1
            if key.value in members:
                Value(None, self._file, line, field).wrong("it is given twice")
            members[key.value] = self.value(value, field, above, line)
        return members

    def _scalar(self, node: yaml.Node, place: Value) -> Value:
        text = node.value
        if self._variables is not None and not place.field.startswith(f"{SET}."):
            text = VARIABLE.sub(lambda found: self._replaced(found, place), text)
        tag = node.tag
        if text != node.value and node.style is None:
            tag = self._loader.resolve(yaml.ScalarNode, text, (True, False))
        if tag.endswith((":timestamp", ":value")):
            tag = "tag:yaml.org,2002:str"
        scalar = yaml.ScalarNode(tag, text, node.start_mark, node.end_mark)
        try:
            data = self._loader.construct_object(scalar)
        except ValueError as exc:
            place.wrong(str(exc))
        return Value(data, self._file, place.line, place.field, text)

    def _replaced(self, found: re.Match[str], place: Value) -> str:
        name = found[2]
        if name is None:
            return "$"
        assert self._variables is not None
        if name not in self._variables:
            hint = did_you_mean(name, self._variables)
            place.wrong(f"there is no variable '{name}'{hint or '; $$ stands for a dollar sign'}")
        return self._variables[name]
