"""Write the ACL users of a server as a policy that allows no more than they may do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keyleash.addons.learn.document import quoted
from keyleash.addons.learn.monitor import identity_name
from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.spec import CHANNEL_CLASSES
from keyleash.errors import KeyleashError, OperationError
from keyleash.operations import operation
from keyleash.policy.keysets import KeySet, covers
from keyleash.policy.model import Pattern
from keyleash.policy.patterns import parse_pattern
from keyleash.results import Result
from keyleash.store.live_table import read_table, reply_mapping, reply_text
from keyleash.store.records import database_of
from keyleash.store.store import Store
from keyleash.store.users import commands_of_category, read_user_fields, user_names
from keyleash.text import printable

# No pattern has a literal `*`, nor a character that a reply lacks.
_GLOB = re.compile(r"\\([^*\ufffd])|(\*+)|(\\\*|[?\[\ufffd])|(.)", re.DOTALL)
_CLASSES = {
    "~": (OperationClass.READ, OperationClass.WRITE, OperationClass.DELETE, OperationClass.SCAN),
    "R": (OperationClass.READ, OperationClass.SCAN),
    "W": (OperationClass.WRITE, OperationClass.DELETE),
    "&": (OperationClass.PUBLISH, OperationClass.SUBSCRIBE),
}


@dataclass(frozen=True, slots=True)
class AclPolicy(Result):
    """The policy of ACL users.

    Attributes:
        document: The policy.
        users: The users, by the identities that stand for them.
        left_out: Why others are not in it.
    """

    document: str
    users: Mapping[str, str]
    left_out: Mapping[str, str]


@operation()
def learn_acl(store: Store) -> AclPolicy:
    """Return a policy with the rights of the server's ACL users, or fewer; nothing is loaded.

    Raises:
        OperationError (no-acl-user): no user has keys or channels.
    """
    reader = _Reader(store)
    users: dict[str, str] = {}
    left_out: dict[str, str] = {}
    lines: list[str] = []
    for name, fields in sorted(read_user_fields(store.client, [*user_names(store.client)]).items()):
        parts = reader.parts(fields)
        grants = [*reader.grants(parts)]
        identity = identity_name(name)
        if "on" not in {reply_text(flag) for flag in fields["flags"]}:
            left_out[name] = "it is off"
        elif not parts:
            left_out[name] = f"it may not use database {reader.database}"
        elif not any(line.lstrip().startswith("-") for line in grants):
            left_out[name] = "it has no command with keys or channels that a pattern stands for"
        elif identity in users:
            left_out[name] = f"its identity would be `{identity}`, as that of `{users[identity]}`"
        else:
            users[identity] = name
            lines += [f"  {identity}:  # the user {printable(name)}", "    kind: machine"]
            lines += ["    grants:", *grants]
    if not users:
        raise OperationError(
            "no-acl-user",
            "no ACL user that is on has keys or channels",
            help="give users keys by `ACL SETUSER`, or learn from calls: `keyleash learn`",
        )
    head = ["# Written by `keyleash learn --acl`: each identity may do what its user may, or less."]
    head += ["# ACL users have no limits: add `rate` and `budget`."]
    head += [f"# {printable(f'left out: {name}: {why}')}" for name, why in left_out.items()]
    document = "\n".join([*head, "version: 1", "identities:", *lines, ""])
    return AclPolicy(document, users, left_out)


class _Reader:
    def __init__(self, store: Store) -> None:
        self.database = database_of(store.client)
        self._client = store.client
        self._categories: dict[str, frozenset[str]] = {}
        self._all = {
            spec.name: spec
            for spec in read_table(store.client)
            if spec.refused is None and not spec.index and not spec.named_only
        }

    def parts(self, fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the root permissions and the selectors that apply to the database."""
        # Valkey has databases from 9.1 on.
        return [
            part
            for part in (fields, *map(reply_mapping, fields.get("selectors", ())))
            if {"alldbs", str(self.database)}
            & {*re.findall(r"\w+", reply_text(part.get("databases", "alldbs")))}
        ]

    def grants(self, parts: list[Mapping[str, Any]]) -> Iterator[str]:
        """Yield the grants of a user: of its root permissions, and of each selector.

        Grants combine in one call, while selectors and accesses do not.
        """
        named = [part for part in parts if reply_text(part["keys"])]
        accesses = [access for part in named for access in _globs(part) if access != "&"]
        if len(named) > 1:
            yield "      # Selectors do not combine: only one has commands of several keys."
        globs_of: dict[tuple[tuple[OperationClass, ...], str], list[str]] = {}
        for part in parts:
            specs = self._allowed(reply_text(part["commands"]))
            for access, globs in _globs(part).items():
                group = specs
                if len(accesses) > 1:
                    group = [s for s in specs if _is_alone(s, access, part is named[0])]
                classes = tuple(c for c in _CLASSES[access] if any(c in s.needs for s in group))
                rights = classes, self._narrowed(group, classes)
                globs_of.setdefault(rights, []).extend(globs)
        for (classes, narrowed), globs in globs_of.items():
            yield from _grant(classes, narrowed, globs)

    def _allowed(self, rules: str) -> list[CommandSpec]:
        """Return the commands that rules allow with all arguments."""
        allowed: frozenset[str] = frozenset()
        for word in filter(None, rules.split(" ")):
            sign, name = word[0], word[1:].lower()
            if name.startswith("@"):
                named = self._category(name)
            elif "|" in name:
                named = frozenset({name.upper().replace("|", " ")} & self._all.keys())
            else:
                first = name.upper()
                named = frozenset(item for item in self._all if item.partition(" ")[0] == first)
            allowed = allowed | named if sign == "+" else allowed - named
        # A pattern of SORT reads any key, which the server allows with all keys only.
        may_get = {"GET", "HGET"} <= allowed
        return [s for s in self._all.values() if s.name in allowed and (may_get or not s.patterns)]

    def _category(self, name: str) -> frozenset[str]:
        """Return the commands of a category, as this server has it."""
        if name == "@all":
            return frozenset(self._all)
        if name not in self._categories:
            found = commands_of_category(self._client, name[1:])
            self._categories[name] = frozenset(self._all.keys() & found)
        return self._categories[name]

    def _narrowed(self, group: list[CommandSpec], classes: tuple[OperationClass, ...]) -> str:
        """Return `only` or `except`, unless all commands that a grant gives are allowed."""
        wanted = {name for name, spec in self._all.items() if _may_need(spec, classes)}
        names = {spec.name for spec in group} & wanted
        missing = wanted - names
        if len(names) <= len(missing):
            return f"only: [{', '.join(sorted(names))}]"
        return f"except: [{', '.join(sorted(missing))}]" if missing else ""


def _may_need(spec: CommandSpec, classes: tuple[OperationClass, ...]) -> bool:
    """Return whether a grant of some classes can give a command, alone or with other grants."""
    needs = {*spec.needs, *(spec.variant.needs if spec.variant else ())}
    needs.update(needed for keys in spec.keys for needed in keys.needs)
    if needs:
        return not needs.isdisjoint(classes)
    return not spec.keys or CHANNEL_CLASSES.isdisjoint(classes)


def _globs(part: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the globs of keys by their access, and those of channels."""
    by_access: dict[str, list[str]] = {}
    rules = f"{reply_text(part['keys'])} {reply_text(part['channels'])}"
    # Other blanks may be within a glob.
    for access, kind, glob in re.findall(r"(?:^| )%?([RW]*)([~&])([^ ]*)", rules):
        by_access.setdefault(access or kind, []).append(glob)
    return by_access


def _is_alone(spec: CommandSpec, access: str, with_others: bool) -> bool:
    """Return whether an access is enough for each key of a command that it is for.

    Args:
        with_others: Whether the command may have other keys.
    """
    classes = {*_CLASSES[access]}
    needs = [{*keys.needs} for keys in spec.keys]
    if spec.variant is not None and all(map(classes.isdisjoint, needs)):
        needs.append({*spec.variant.needs})
    first, last, _ = spec.walk or (0, 1, 1)
    is_whole = all(needed <= classes or classes.isdisjoint(needed) for needed in needs)
    return is_whole and (with_others or not spec.keys or first == last)


def _grant(classes: tuple[OperationClass, ...], narrowed: str, globs: list[str]) -> Iterator[str]:
    found = {glob: pattern for glob in globs if (pattern := _pattern(glob))}
    patterns, keys = [*found.values()], KeySet(found.values())
    lines = [
        f"          - {quoted(pattern.source)}"
        # A capture is one segment, and a `*` of a glob is any text.
        + f"  # within {printable(glob)}" * bool(pattern.captures)
        for place, (glob, pattern) in enumerate(found.items())
        # Of two that match the same keys, the first remains.
        if all(at >= place and covers(pattern, patterns[at]) for at in keys.covering(pattern))
    ]
    if lines and classes and narrowed != "only: []":
        yield f"      - allow: [{', '.join(classes)}]"
        yield f"        {'keys' if CHANNEL_CLASSES.isdisjoint(classes) else 'channels'}:"
        yield from lines
        if narrowed:
            yield f"        {narrowed}"
    for glob in dict.fromkeys(globs):
        if glob not in found:
            shown = printable(glob)
            yield f"      # the glob {shown} cannot be a pattern: write narrower ones by hand"


def _pattern(glob: str) -> Pattern | None:
    """Return the widest pattern within a glob, if there is one."""
    text, stars = "", 0
    for part in _GLOB.finditer(glob):
        escaped, star, special, plain = part.groups()
        if special:
            return None
        if star and part.end() < len(glob):
            stars += 1
            text += "{part}" if stars == 1 else f"{{part_{stars}}}"
        else:
            literal = star[:1] if star else escaped or plain
            text += literal * 2 if literal in "{}" else literal
    try:
        return parse_pattern(text)
    except KeyleashError:
        return None
