"""Schema errors of a policy document, each with its place, a message and help.

The readers of values rely on this check for types and names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.yaml import Broken, Path, YamlNode

if TYPE_CHECKING:
    from types import ModuleType

    from pydantic_core import ErrorDetails

PARTS = {
    "grants": ("a grant", '- {allow: [read], keys: ["agents:context:*"]}'),
    "deny": ("a deny rule", '- {keys: ["agents:jobs:{job_id}:lock"]}'),
}
"""The name and an example of the entries of a list of mappings."""


def schema() -> ModuleType:
    """Return the module of the schema; pydantic takes a third of the time of all imports."""
    return import_module("keyleash.policy.schema")


def check_shape(root: YamlNode, problems: Problems) -> YamlNode:
    """
    Report each unknown field, missing field and wrong type of a document.

    Returns:
        The document without the reported parts. Nothing in it has a wrong type or an unknown
        name, but a required field may be missing.
    """
    bad: set[Path] = set()
    for flaw in schema().errors_of(root.plain()):
        path, node = root.follow(flaw["loc"])
        _report(flaw, path, node, problems)
        if flaw["type"] != "missing":
            bad.add(path)
    return replace(root, value={}) if () in bad else root.without(bad)


def _report(flaw: ErrorDetails, path: Path, node: YamlNode, problems: Problems) -> None:
    """Report an error of pydantic; *node* is the value, or the mapping that lacks a field."""
    if isinstance(node.value, Broken):
        return
    if flaw["type"] == "extra_forbidden":
        _report_unknown(path, node, problems)
    elif flaw["type"] != "missing":
        _report_type(path, node, problems)
    elif not node.partial:
        field = str(flaw["loc"][-1])
        written = schema().example(field, schema().known_fields(path)[field])
        problems.add(
            "missing-field",
            f"{_where(path)} has no `{field}`",
            node.label,
            f"add one, such as `{written}`",
        )


def _report_unknown(path: Path, node: YamlNode, problems: Problems) -> None:
    known = schema().known_fields(path[:-1])
    problems.add(
        "unknown-field",
        f"unknown field {quote(str(path[-1]))} in {_where(path[:-1])}",
        node.label,
        did_you_mean(str(path[-1]), known, f"the fields here are {listing(known)}"),
    )


def _report_type(path: Path, node: YamlNode, problems: Problems) -> None:
    wanted, line = _expectation(path)
    written = node.source if isinstance(node.value, str | int) else None
    match path, node.value:
        case (*_, "per"), dict():
            line = f'per: "{{{next(iter(node.fields), "workspace_id")}}}"'
        case (*_, "before_images" | "on_denials" | "idempotency" | "delegate" as field), False:
            line = f"{field}: off"
        case (*_, str(field), int()), int():
            line = f'{field}: ["{written}"]'
        case (*_, str(field)), str() if wanted.startswith("a list"):
            line = f"{field}: [{written}]"
    problems.add(
        "wrong-type",
        f"{_where(path)} must be {wanted}, not {_kind(node)}",
        node.span,
        f"write it like `{line}`",
    )


def _expectation(path: Path) -> tuple[str, str]:
    """Return the type of the field at *path* in words, and a line that sets it."""
    match path:
        case ():
            return "a mapping", "version: 1"
        case ("identities", name):
            return "a mapping", f"{name}: {{kind: machine, grants: […]}}"
        case ("scripts", str(name)):
            return "a mapping", f"{name}: {{file: {name}.lua}}"
        case ("identities", _, "accept", finding):
            return "text", f'{finding}: "it runs once a day"'
        case (*_, str(field), int()) if field in PARTS:
            return "a mapping", PARTS[field][1]
        case (*_, str(field), int()):
            return "text", schema().EXAMPLES[field]
        case _:
            info = schema().known_fields(path[:-1])[str(path[-1])]
            return schema().expected(info), schema().example(str(path[-1]), info)


def _where(path: Path) -> str:
    """Return the name of the part at *path* in messages."""
    match path:
        case ():
            return "the document"
        case ("identities", name):
            return f"the identity {quote(str(name))}"
        case (*_, str(field), int()) if field in PARTS:
            return PARTS[field][0]
        case (*_, str(field), int()):
            return f"an entry of `{field}`"
        case _:
            return f"`{path[-1]}`"


def _kind(node: YamlNode) -> str:
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


def check_not_empty(field: str, node: YamlNode, problems: Problems) -> None:
    """Report the list *field* if it has no entry."""
    if not (node.entries or node.partial):
        problems.add(
            "empty-list",
            f"`{field}` is empty",
            node.span,
            f"write at least one entry, such as `{schema().EXAMPLES[field]}`",
        )


def check_distinct(entries: Iterable[tuple[str, YamlNode]], problems: Problems) -> None:
    """Report each entry that repeats the normalized text of an earlier one."""
    seen: set[str] = set()
    for text, entry in entries:
        if text in seen:
            problems.add(
                "repeated-entry", f"{quote(entry.source)} is repeated", entry.span, "remove one"
            )
        seen.add(text)
