"""Saying in our words, at its place, what pydantic finds wrong with a document's shape.

Meaning is not checked here, but the readers of meaning need not ask for types.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.schema import DocumentShape, known_fields
from keyleash.policy.yaml import Broken, Path, YamlNode

FIELDS = {
    "version": ("a whole number", "version: 1"),
    "defaults": ("a mapping", "defaults: {token: {ttl: 12h}}"),
    "identities": ("a mapping from names to identities", "identities: {agent-reader: {…}}"),
    "kind": ("text", "kind: machine"),
    "grants": ("a list of grants", 'grants: [{allow: [read], keys: ["agents:context:*"]}]'),
    "deny": ("a list of deny rules", 'deny: [{keys: ["agents:jobs:{job_id}:lock"]}]'),
    "allow": ("a list of operation classes", "allow: [read, write]"),
    "keys": ("a list of key patterns", 'keys: ["agents:context:*"]'),
    "channels": ("a list of channel patterns", 'channels: ["agents:events:*"]'),
    "only": ("a list of commands and categories", 'only: [GET, "@hash"]'),
    "except": ("a list of commands and categories", 'except: [GETDEL, "@bitmap"]'),
    "rate": ("a mapping from counters to rates", "rate: {writes: 600/minute}"),
    "budget": ("a mapping from counters to budgets", "budget: {requests: 50000/day}"),
    "requests": ("a limit", "requests: 3000/hour"),
    "reads": ("a limit", "reads: 3000/hour"),
    "writes": ("a limit", "writes: 3000/hour"),
    "deletes": ("a limit", "deletes: 3000/hour"),
    "limit": ("a count per period", "limit: 600/minute"),
    "burst": ("a whole number", "burst: 60"),
    "timezone": ("the name of a time zone", "timezone: Europe/Berlin"),
    "per": ("text", 'per: "{workspace_id}"'),
    "token": ("a mapping", "token: {ttl: 12h, max_ttl: 3d}"),
    "ttl": ("a duration", "ttl: 12h"),
    "max_ttl": ("a duration", "max_ttl: 3d"),
    "rotate_after": ("a duration", "rotate_after: 7d"),
    "idle": ("a duration", "idle: 15m"),
    "audit": ("a mapping", "audit: {retain: 100000}"),
    "retain": ("a count, a duration or a mapping", "retain: 100000"),
    "until": ("text", "until: exported"),
    "hard_max": ("a whole number", "hard_max: 1000000"),
    "audit.reads": ("`true` or `false`", "reads: true"),
    "audit.values": ("text", "values: none"),
    "values": ("a mapping", "values: {max_bytes: 64kb}"),
    "mask_keys": ("a list of key patterns", 'mask_keys: ["agents:secrets:*"]'),
    "before_images": ("a mapping or `off`", "before_images: {max_bytes: 64kb}"),
    "max_bytes": ("a size", "max_bytes: 64kb"),
    "durability": ("a mapping", "durability: {wait_replicas: 1, timeout: 50ms}"),
    "wait_replicas": ("a whole number", "wait_replicas: 1"),
    "timeout": ("a duration", "timeout: 50ms"),
    "on_denials": ("a mapping or `off`", "on_denials: {threshold: 50/minute, suspend: 10m}"),
    "threshold": ("a count per period", "threshold: 50/minute"),
    "suspend": ("a duration", "suspend: 10m"),
    "limits": ("a mapping", "limits: {work: 250000}"),
    "work": ("a whole number", "work: 250000"),
    "accept": ("a mapping from findings to reasons", 'accept: {no-budget: "it runs once a day"}'),
}
"""What each field must be, and how it is written; `audit.reads` is another than a limit's,
`audit.values` another than a grant's."""

PARTS = {
    "grants": ("a grant", '- {allow: [read], keys: ["agents:context:*"]}'),
    "deny": ("a deny rule", '- {keys: ["agents:jobs:{job_id}:lock"]}'),
}
"""What the entries of a list of mappings are called, and how one is written."""


def check_shape(root: YamlNode, problems: Problems) -> YamlNode:
    """
    Report what does not have the shape of a policy.

    Args:
        root: The whole document.
        problems: Receives each unknown field, missing field and wrong type.

    Returns:
        The document without the parts that were reported; nothing in it has a wrong
        type or an unknown name, but a field that must be there may be missing.
    """
    try:
        DocumentShape.model_validate(root.plain())
    except ValidationError as error:
        bad: set[Path] = set()
        for flaw in error.errors(include_url=False, include_context=False, include_input=False):
            path, node = root.follow(flaw["loc"])
            _report(flaw, path, node, problems)
            if flaw["type"] != "missing":
                bad.add(path)
        return replace(root, value={}) if () in bad else root.without(bad)
    return root


def _report(flaw: ErrorDetails, path: Path, node: YamlNode, problems: Problems) -> None:
    """Say one of pydantic's errors; *node* is the offender, or the mapping that lacks a field."""
    if isinstance(node.value, Broken):
        return
    if flaw["type"] == "extra_forbidden":
        _report_unknown(path, node, problems)
    elif flaw["type"] != "missing":
        _report_type(path, node, problems)
    elif not node.partial:
        field = str(flaw["loc"][-1])
        problems.add(
            "missing-field",
            f"{_where(path)} has no `{field}`",
            node.label,
            f"add one, such as `{FIELDS[field][1]}`",
        )


def _report_unknown(path: Path, node: YamlNode, problems: Problems) -> None:
    known = known_fields(path[:-1])
    problems.add(
        "unknown-field",
        f"unknown field {quote(str(path[-1]))} in {_where(path[:-1])}",
        node.label,
        did_you_mean(str(path[-1]), known, f"the fields here are {listing(known)}"),
    )


def _report_type(path: Path, node: YamlNode, problems: Problems) -> None:
    wanted, example = _expectation(path)
    written = node.source if isinstance(node.value, str | int) else None
    match path, node.value:
        case (*_, "per"), dict():
            example = f'per: "{{{next(iter(node.fields), "workspace_id")}}}"'
        case (*_, "before_images" | "on_denials" as field), False:
            example = f"{field}: off"
        case (*_, str(field), int()), int():
            example = f'{field}: ["{written}"]'
        case (*_, str(field)), str() if wanted.startswith("a list"):
            example = f"{field}: [{written}]"
    problems.add(
        "wrong-type",
        f"{_where(path)} must be {wanted}, not {_kind(node)}",
        node.span,
        f"write it like `{example}`",
    )


def _expectation(path: Path) -> tuple[str, str]:
    """What must stand at *path*, and how it is written."""
    match path:
        case ():
            return "a mapping", "version: 1"
        case ("identities", name):
            return "a mapping", f"{name}: {{kind: machine, grants: […]}}"
        case ("identities", _, "accept", finding):
            return "text", f'{finding}: "it runs once a day"'
        case (*_, str(field), int()) if field in PARTS:
            return "a mapping", PARTS[field][1]
        case (*_, str(field), int()):
            return "text", FIELDS[field][1]
        case (*_, parent, field) if f"{parent}.{field}" in FIELDS:
            return FIELDS[f"{parent}.{field}"]
        case _:
            return FIELDS[str(path[-1])]


def _where(path: Path) -> str:
    """What stands at *path*, as a reader would call it."""
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
