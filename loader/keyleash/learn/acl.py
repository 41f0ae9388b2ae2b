"""Write the ACL users of a server as a policy that allows no more than they may do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keyleash.commands import CommandSpec, OperationClass, known_table
from keyleash.errors import KeyleashError, OperationError
from keyleash.learn.document import quoted
from keyleash.learn.monitor import identity_name
from keyleash.operations import operation
from keyleash.policy.patterns import parse_pattern
from keyleash.results import Result
from keyleash.store.live_table import reply_mapping, reply_text
from keyleash.store.store import Store
from keyleash.store.users import commands_of_category, read_user_fields, user_names
from keyleash.text import printable

_GLOB = re.compile(r"\\(.)|(\*+)|([?\[])|([{}])|(.)", re.DOTALL)
FEW_COMMANDS = 30
"""Commands that a grant excludes by name, rather than naming all others."""
_CLASSES = {
    "RW": (OperationClass.READ, OperationClass.WRITE, OperationClass.DELETE),
    "R": (OperationClass.READ,),
    "W": (OperationClass.WRITE, OperationClass.DELETE),
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
        grants = [*reader.grants(fields)]
        is_on = "on" in {reply_text(flag) for flag in fields["flags"]}
        identity = identity_name(name)
        if not is_on or not any(line.lstrip().startswith("-") for line in grants):
            left_out[name] = (
                "no command that it may use needs a key or a channel" if is_on else "it is off"
            )
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
        self._client = store.client
        self._categories: dict[str, frozenset[str]] = {}
        self._all = {
            spec.name: spec for spec in known_table() if spec.refused is None and not spec.index
        }

    def grants(self, fields: Mapping[str, Any]) -> Iterator[str]:
        """Yield the grants of a user: of its root permissions, and of each selector.

        Grants combine in one call, while selectors and accesses do not.
        """
        parts = [fields, *map(reply_mapping, fields.get("selectors", ()))]
        named = [part for part in parts if reply_text(part["keys"])]
        accesses = [access for part in named for access in _globs(part)]
        for part in parts:
            specs = self._allowed(reply_text(part["commands"]))
            narrowed = [*self._narrowed(specs)]
            for access, globs in _globs(part).items():
                group = specs
                if len(accesses) > 1:
                    is_first = part is named[0]
                    group = [s for s in specs if _is_alone(s, access, with_others=is_first)]
                    if not is_first:
                        yield "      # of a selector: it has no commands of several keys"
                classes = [cls for cls in _CLASSES[access] if any(cls in s.needs for s in group)]
                if "SCAN" in {spec.name for spec in group} and "R" in access:
                    classes.append(OperationClass.SCAN)
                yield from _grant(classes, "keys", globs, [*self._narrowed(group)])
            channels = [word.removeprefix("&") for word in reply_text(part["channels"]).split()]
            classes = [
                cls
                for cls in (OperationClass.PUBLISH, OperationClass.SUBSCRIBE)
                if any(spec.channel_class is cls for spec in specs)
            ]
            yield from _grant(classes, "channels", channels, narrowed)

    def _allowed(self, rules: str) -> list[CommandSpec]:
        """Return the commands that rules allow with all arguments."""
        allowed: frozenset[str] = frozenset()
        for word in rules.split():
            sign, name = word[0], word[1:].lower()
            if name.startswith("@"):
                named = self._category(name)
            elif "|" in name:
                named = frozenset({name.upper().replace("|", " ")} & self._all.keys())
            else:
                first = name.upper()
                named = frozenset(item for item in self._all if item.partition(" ")[0] == first)
            allowed = allowed | named if sign == "+" else allowed - named
        return [self._all[name] for name in self._all if name in allowed]

    def _category(self, name: str) -> frozenset[str]:
        """Return the commands of a category, as this server has it."""
        if name == "@all":
            return frozenset(self._all)
        if name not in self._categories:
            found = commands_of_category(self._client, name[1:])
            self._categories[name] = frozenset(
                item for item in self._all if {item, item.partition(" ")[0]} & found
            )
        return self._categories[name]

    def _narrowed(self, specs: list[CommandSpec]) -> Iterator[str]:
        """Yield `only` or `except`, unless all commands that a grant gives are allowed."""
        wanted = {name for name, spec in self._all.items() if not spec.named_only}
        names = {spec.name for spec in specs} & wanted
        missing = sorted(wanted - names)
        if len(missing) > FEW_COMMANDS:
            yield f"only: [{', '.join(sorted(names))}]"
        elif missing:
            yield f"except: [{', '.join(missing)}]"


def _globs(part: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the globs of keys by their access."""
    by_access: dict[str, list[str]] = {}
    for rule in reply_text(part["keys"]).split():
        access, _, glob = rule.removeprefix("%").partition("~")
        by_access.setdefault(access or "RW", []).append(glob)
    return by_access


def _is_alone(spec: CommandSpec, access: str, *, with_others: bool) -> bool:
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


def _grant(
    classes: list[OperationClass], kind: str, globs: list[str], narrowed: list[str]
) -> Iterator[str]:
    patterns = {glob: _pattern(glob) for glob in globs}
    lines = [f"          - {quoted(text)}{why}" for text, why in patterns.values() if text]
    if lines and classes and "only: []" not in narrowed:
        yield f"      - allow: [{', '.join(classes)}]"
        yield f"        {kind}:"
        yield from dict.fromkeys(lines)
        yield from (f"        {line}" for line in narrowed)
    for glob, (text, _) in patterns.items():
        if not text:
            yield f"      # no pattern allows as much as {printable(glob)} and no more"


def _pattern(glob: str) -> tuple[str, str]:
    """Return the widest pattern within a glob, and a comment if it is narrower; or nothing."""
    text, why = "", ""
    for part in _GLOB.finditer(glob):
        escaped, star, special, brace, plain = part.groups()
        if special:
            return "", ""
        if star and part.end() < len(glob):
            # A capture is one segment, and a `*` of a glob is any text.
            why = f"  # within {printable(glob)}"
            text += f"{{part_{part.start()}}}"
        elif star:
            text += "*"
        else:
            literal = escaped or brace or plain
            text += literal * 2 if literal in "{}" else literal
    try:
        parse_pattern(text)
    except KeyleashError:
        return "", ""
    return text, why
