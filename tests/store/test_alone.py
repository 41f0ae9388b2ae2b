"""`store/` alone sends commands to a server, and alone names its control keys."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import MemberDescriptorType

from keyleash.store.keyspace import CONTROL_PREFIX, Keyspace

PACKAGE = Path(__file__).resolve().parents[2] / "loader" / "keyleash"

OTHERS = {
    "client": "calls guards, for agents",
    "gateway": "calls guards, for agents in any language",
    "addons/mcp": "calls guards, for models",
    "addons/servers": "starts servers, and waits until they answer",
    "addons/testing": "fakes servers, and lends plain clients to tests",
}
"""The other packages that use redis-py, and why."""

IN_RULES = {
    "compiler": "guards contain the names of their keys",
    "operator/roles.py": "ACL rules of operators",
    "addons/doctor/checks/records.py": "names in findings",
    "addons/doctor/checks/users.py": "a key of commands that may be denied",
}
"""The modules that use names of keys in texts, and why."""

CLIENTS = {"client", "_client", "pipe", "pipeline"}
NAMES = {
    name
    for name, member in vars(Keyspace).items()
    if not name.startswith("_") and not isinstance(member, MemberDescriptorType)
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(tuple(f"{package}/" for package in ("store", *OTHERS))):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def last_name(node: ast.expr) -> str:
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def test_no_other_package_sends_commands() -> None:
    """A cluster then changes the store, and not sixty modules."""
    found = []
    for name, module in sources():
        for node in ast.walk(module):
            match node:
                case ast.Import(names=names):
                    modules = [item.name for item in names]
                case ast.ImportFrom(module=str(of), names=names):
                    is_errors = of == "redis.exceptions" or [item.name for item in names] == [
                        "exceptions"
                    ]
                    modules = [] if is_errors else [of]
                case ast.Call(func=ast.Attribute(value=held, attr=method)):
                    modules = []
                    if last_name(held) in CLIENTS and method != "close":
                        found.append(f"{name}:{node.lineno} {ast.unparse(node.func)}")
                case _:
                    continue
            of_redis = [item for item in modules if item.partition(".")[0] == "redis"]
            found += [f"{name}:{node.lineno} imports {item}" for item in of_redis]

    assert found == []


def test_no_other_package_names_a_control_key() -> None:
    """Names are built in one place, except in the texts of guards and of rules."""
    found = []
    for name, module in sources():
        # The prefix itself is a fact of commands, which a lint of grants names.
        if name.startswith((*IN_RULES, "commands/facts.py")):
            continue
        for node in ast.walk(module):
            match node:
                case ast.Attribute(value=held, attr=attribute):
                    if last_name(held) in {"keys", "keyspace", "_keyspace"} and attribute in NAMES:
                        found.append(f"{name}:{node.lineno} {ast.unparse(node)}")
                case ast.Constant(value=str(text)) if text.startswith(CONTROL_PREFIX):
                    found.append(f"{name}:{node.lineno} {text}")

    assert found == []


def test_every_exception_is_needed() -> None:
    """A module that does without names of keys, or is gone, is off the list."""
    for name in IN_RULES:
        paths = [PACKAGE / name] if name.endswith(".py") else list((PACKAGE / name).rglob("*.py"))
        texts = [path.read_text(encoding="utf-8") for path in paths]
        names = {
            node.attr
            for text in texts
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Attribute)
        }
        assert names & NAMES, name
