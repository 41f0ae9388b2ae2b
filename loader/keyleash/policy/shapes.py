"""The types of a document's values: their check, error messages and JSON Schema."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import yaml

from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.yaml import Broken, YamlNode

Json = dict[str, Any]
OFF = "off"
OFF_SCHEMA: Json = {"const": OFF, "type": "string"}


class Spot(NamedTuple):
    """
    The place of a value in a document, for messages.

    Attributes:
        name: Its name, such as `` `keys` `` or `the identity `agent` ``.
        field: The field that it is, or that has the list that it is in.
        line: A line that sets it.
        is_entry: Whether it is in a list.
    """

    name: str
    field: str
    line: str
    is_entry: bool = False


@dataclass(frozen=True)
class Shape:
    """
    The type of a value: of a scalar, or in a subclass of a list or mapping.

    Attributes:
        expected: Its name in messages.
        types: The Python types of the scalars that are allowed.
        scalars: Their JSON Schemas.
    """

    expected: str
    types: tuple[type, ...] = ()
    scalars: tuple[Json, ...] = ()

    def check(self, node: YamlNode, spot: Spot, problems: Problems) -> YamlNode | None:
        """
        Report each unknown field, missing field and wrong type in a value.

        Returns:
            The value without the reported parts; None if nothing is left. It has no wrong type and
            no unknown name, but a required field may be missing.
        """
        parts = self._check_parts(node, spot, problems)
        if parts is not None:
            is_partial = node.partial or len(parts) < len(node.fields) + len(node.entries)
            value = parts if isinstance(node.value, dict) else tuple(parts.values())
            return replace(node, value=value, partial=is_partial)
        if type(node.value) in self.types:
            return node
        if not isinstance(node.value, Broken):
            problems.add(
                "wrong-type",
                f"{spot.name} must be {self.expected}, not {_described(node)}",
                node.span,
                f"write it like `{self._line(node, spot)}`",
            )
        return None

    def _check_parts(self, node: YamlNode, spot: Spot, problems: Problems) -> Parts | None:
        """Return the valid parts of a list or mapping, or None if it must be a scalar."""
        return None

    def _line(self, node: YamlNode, spot: Spot) -> str:
        match node.value:
            case dict() if spot.field == "per":
                return f'per: "{{{next(iter(node.fields), "workspace_id")}}}"'
            case False if OFF_SCHEMA in self.scalars:
                return f"{spot.field}: {OFF}"
            case int() if spot.is_entry:
                return f'{spot.field}: ["{node.source}"]'
            case str() if isinstance(self, ListOf) and str in self.entry.types:
                return f"{spot.field}: [{node.source}]"
        return spot.line

    def json(self, definitions: Json) -> Json:
        """Return the JSON Schema, and add those of sections to *definitions*."""
        schemas = [*self.scalars, *self._parts_json(definitions)]
        return {"anyOf": schemas} if schemas[1:] else {**schemas[0]}

    def _parts_json(self, definitions: Json) -> Iterable[Json]:
        return ()


Parts = dict[Any, YamlNode]


def _valid(node: YamlNode, entry: Shape, name: Any, spot: Spot, problems: Problems) -> Parts:
    checked = entry.check(node, spot, problems)
    return {} if checked is None else {name: checked}


@dataclass(frozen=True)
class ListOf(Shape):
    """A list; its mappings have a noun and an example, and texts the example of the list."""

    entry: Shape = field(kw_only=True)
    noun: str = ""
    example: str = ""
    may_be_empty: bool = False

    def _check_parts(self, node: YamlNode, spot: Spot, problems: Problems) -> Parts | None:
        if not isinstance(node.value, tuple):
            return None
        if not (self.may_be_empty or node.entries or node.partial):
            help = f"write at least one entry, such as `{spot.line}`"
            problems.add("empty-list", f"{spot.name} is empty", node.span, help)
        name, line = self.noun or f"an entry of `{spot.field}`", self.example or spot.line
        below, parts = Spot(name, spot.field, line, is_entry=True), Parts()
        for place, entry in enumerate(node.entries):
            parts |= _valid(entry, self.entry, place, below, problems)
        return parts

    def _parts_json(self, definitions: Json) -> Iterable[Json]:
        schema: Json = {"items": self.entry.json(definitions), "type": "array"}
        yield schema if self.may_be_empty else {**schema, "minItems": 1}


@dataclass(frozen=True)
class MapOf(Shape):
    """A mapping from names that the author chooses; `NAME` stands for one in the other fields."""

    entry: Shape = field(kw_only=True)
    noun: str = "NAME"
    example: str = ""

    def _check_parts(self, node: YamlNode, spot: Spot, problems: Problems) -> Parts | None:
        if not isinstance(node.value, dict):
            return None
        parts = Parts()
        for name, entry in node.fields.items():
            noun = self.noun.replace("NAME", quote(name))
            below = Spot(noun, name, self.example.replace("NAME", name))
            parts |= _valid(entry, self.entry, name, below, problems)
        return parts

    def _parts_json(self, definitions: Json) -> Iterable[Json]:
        yield {"additionalProperties": self.entry.json(definitions), "type": "object"}


@dataclass(frozen=True)
class Field:
    """
    A field of a section.

    Attributes:
        example: A valid value, as YAML.
        help: One sentence for editors.
        required: Whether a section must have it.
        keywords: More keywords of its JSON Schema.
    """

    shape: Shape
    example: str
    help: str = ""
    required: bool = False
    keywords: Json = field(default_factory=dict)

    def json(self, definitions: Json) -> Json:
        """Return the JSON Schema, and add those of sections to *definitions*."""
        schema = self.shape.json(definitions) | {"description": self.help} | self.keywords
        if "…" not in self.example:
            schema["examples"] = [yaml.safe_load(self.example)]
        return dict(sorted(schema.items()))


@dataclass(frozen=True)
class Section(Shape):
    """A mapping with known fields; *name* is that of its definition in the JSON Schema."""

    name: str = ""
    fields: Mapping[str, Field] = field(default_factory=dict)

    def line(self, name: str) -> str:
        """Return a line that sets a field."""
        return f"{name}: {self.fields[name].example}"

    def require(self, name: str, node: YamlNode, title: str, problems: Problems) -> YamlNode | None:
        """Return a field of *node*, which messages call *title*; report it if it is missing."""
        if name not in node.fields and not node.partial:
            help = f"add one, such as `{self.line(name)}`"
            problems.add("missing-field", f"{title} has no `{name}`", node.label, help)
        return node.get(name)

    def _check_parts(self, node: YamlNode, spot: Spot, problems: Problems) -> Parts | None:
        if not isinstance(node.value, dict):
            return None
        for name, part in self.fields.items():
            if part.required:
                self.require(name, node, spot.name, problems)
        parts = Parts()
        for name, value in node.fields.items():
            if name in self.fields:
                below = Spot(f"`{name}`", name, self.line(name))
                parts |= _valid(value, self.fields[name].shape, name, below, problems)
            elif not isinstance(value.value, Broken):
                problems.add(
                    "unknown-field",
                    f"unknown field {quote(name)} in {spot.name}",
                    value.label,
                    did_you_mean(name, self.fields, f"the fields here are {listing(self.fields)}"),
                )
        return parts

    def own_json(self, definitions: Json) -> Json:
        """Return the JSON Schema without a reference."""
        schema: Json = {
            "additionalProperties": False,
            "properties": {name: item.json(definitions) for name, item in self.fields.items()},
        }
        required = [name for name, item in self.fields.items() if item.required]
        return schema | ({"required": required} if required else {}) | {"type": "object"}

    def _parts_json(self, definitions: Json) -> Iterable[Json]:
        if self.name not in definitions:
            definitions[self.name] = self.own_json(definitions)
        yield {"$ref": f"#/$defs/{self.name}"}


def _described(node: YamlNode) -> str:
    match node.value:
        case None:
            return "empty"
        case bool():
            return quote(node.source)
        case int():
            return f"the number {quote(node.source)}"
        case str():
            return f"the text {quote(node.source)}"
        case tuple():
            return "a list"
        case _:
            return "a mapping"
