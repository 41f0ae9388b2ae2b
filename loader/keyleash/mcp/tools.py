"""The tools of a token: one a command that its grants allow, or one a class of operations.

A list is for the model. A tool that is not listed may still be called: the guard decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mcp_types import Tool, ToolAnnotations

from keyleash.commands import CommandSpec, CommandTable
from keyleash.evaluate.abilities import allowed_commands
from keyleash.mcp.forms import (
    ADDING,
    BYTES,
    FORMS,
    IDEMPOTENT,
    STRING,
    class_of,
    form_of,
    is_usable,
    object_of,
    tool_name,
)
from keyleash.policy import Grant, Pattern, overlaps

MAX_DESCRIPTION = 200
WORDS = {"type": "array", "items": BYTES, "minItems": 1}
STRINGS = {"type": "array", "items": STRING}
PAIRS = {"type": "object", "additionalProperties": STRING}
BY_WORDS = {
    "read": ("Run a command that only reads", "GET"),
    "write": ("Run a command that writes", "SET"),
    "delete": ("Run a command that deletes", "DEL"),
}
"""The tools of a class of operations: what they do, and a command of theirs."""
RESULT = {"type": "object", "required": ["result"]}
DELEGATION = {
    "ttl": STRING, "allow": STRINGS, "keys": STRINGS, "bind": PAIRS, "budget": PAIRS
}  # fmt: skip
OWN = ("batch", "delegate", "whoami", "publish")


def by_words() -> dict[str, Any]:
    """Return the schema of a tool that runs a command by its words."""
    return object_of({"command": WORDS}, ["command"])


def batch_schema() -> dict[str, Any]:
    """Return the schema of `batch`."""
    return object_of({"commands": {"type": "array", "items": WORDS}}, ["commands"])


def script_schema() -> dict[str, Any]:
    """Return the schema of an approved script."""
    return object_of({"keys": STRINGS, "arguments": {"type": "array", "items": BYTES}})


@dataclass(frozen=True)
class Access:
    """What a token may do, as its guard publishes it.

    Attributes:
        grants: Narrowed by the restrictions of the token; None if the policy does not publish them.
        deny: The patterns of keys that it may never use.
        delegates: Whether it may make child tokens.
        by_class: Whether its tools are classes of operations.
    """

    grants: Sequence[Grant] | None
    deny: Sequence[Pattern]
    table: CommandTable
    delegates: bool = False
    by_class: bool = False

    @cached_property
    def commands(self) -> Mapping[str, list[Grant]]:
        """The grants of each command of which some call is allowed."""
        grants = self.grants or ()
        found = allowed_commands(grants, self.table)
        by_command: dict[str, list[Grant]] = {name: [*grants] for name in found.together}
        for grant, names in zip(grants, found.by_grant, strict=True):
            for name in names:
                by_command.setdefault(name, []).append(grant)
        return by_command

    @cached_property
    def scripts(self) -> Mapping[str, tuple[str, list[Grant]]]:
        """The digest and the grants of each approved script, by the name of its tool.

        The scripts of a library share a name, and are no tools.
        """
        digests: dict[str, set[str]] = {}
        for grant in self.grants or ():
            for script in grant.scripts:
                digests.setdefault(script.name, set()).add(script.digest)
        taken = {*BY_WORDS, *OWN, *map(tool_name, self.table.commands)}
        return {
            (f"script_{name}" if name in taken else name): (digest, grants)
            for item, (digest, *others) in sorted(digests.items())
            if not others
            for name in [tool_name(item)]
            for grants in [[g for g in self.grants or () if item in {s.name for s in g.scripts}]]
        }

    def patterns(self, names: Iterable[str]) -> list[str]:
        """Return the patterns of keys, channels or indexes on which grants allow commands."""
        found: dict[str, None] = {}
        for name in names:
            spec = self.table.get(name)
            for grant in self.commands.get(name, ()):
                patterns = grant.keys
                if spec is not None and spec.channel is not None:
                    patterns = grant.channels
                elif spec is not None and spec.index is not None:
                    patterns = grant.indexes
                found |= dict.fromkeys(pattern.source for pattern in patterns)
        return [*found]

    def of_class(self, cls: str) -> list[CommandSpec]:
        """Return the allowed commands of a class that tools run by their words."""
        specs = (self.table.commands[name] for name in sorted(self.commands))
        return [spec for spec in specs if is_usable(spec) and class_of(spec) == cls]

    def tools(self) -> list[Tool]:
        """Return the tools, in an order that does not depend on that of the grants."""
        tools = [*self._tools()]
        changing = [tool for tool in tools if not _hints(tool).read_only_hint]
        if len(tools) > 1:
            deletes = any(_hints(tool).destructive_hint for tool in changing)
            text = 'Run several commands, all or none: [["SET", "key", "value"], …]'
            tools.append(make_tool("batch", text, batch_schema(), not changing, deletes, False))
        if self.delegates:
            text = "Make a token for another agent, which may do no more; ttl is 10m or the like"
            tools.append(make_tool("delegate", text, object_of(DELEGATION), False, False, False))
        text = "Show what this token may do, when it expires, and what is left of its limits"
        return [*tools, make_tool("whoami", text, object_of({}), True, False, True)]

    def _tools(self) -> Iterator[Tool]:
        named: list[str] = []
        if self.grants is None or self.by_class:
            if "PUBLISH" in self.commands or self.grants is None:
                yield self._of_command(self.table.commands["PUBLISH"])
        else:
            listed = {name for grant in self.grants or () for name in grant.only or ()}
            others = sorted(listed - FORMS.keys())
            for name in [*FORMS, *others]:
                spec = self.table.get(name)
                if name in self.commands and spec is not None and is_usable(spec):
                    named.append(name)
                    yield self._of_command(spec)
        for name, (_, grants) in self.scripts.items():
            keys = [pattern.source for grant in grants for pattern in grant.keys]
            text = self._text("Run this script", "Keys", keys)
            yield make_tool(name, text, script_schema(), False, True, False)
        for cls, (text, example) in BY_WORDS.items():
            specs = [spec for spec in self.of_class(cls) if spec.name not in named]
            if not (specs or self.grants is None):
                continue
            keys = self.patterns(spec.name for spec in specs)
            if named:
                text, example = text.replace("a command", "another command"), specs[0].name
            text = f'{text}, by its words: ["{example}", …]'
            reads = cls == "read"
            text = self._text(text, "Keys", keys)
            yield make_tool(cls, text, by_words(), reads, not reads, reads)

    def _of_command(self, spec: CommandSpec) -> Tool:
        form = form_of(spec)
        noun = "Channels" if spec.channel is not None else "Indexes" if spec.index else "Keys"
        reads = class_of(spec) == "read"
        return make_tool(
            tool_name(spec.name),
            self._text(form.text, noun, self.patterns([spec.name])),
            form.schema,
            reads,
            not reads and spec.name not in ADDING,
            reads or spec.name in IDEMPOTENT,
        )

    def _text(self, text: str, noun: str, patterns: Sequence[str]) -> str:
        """Return a description: what a tool does, on which keys, and on which of them never."""
        if self.grants is None:
            return f"{text}. The policy does not publish which keys are allowed"
        granted = [key for grant in self.grants for key in grant.keys if key.source in patterns]
        denied = [item.source for item in self.deny if any(overlaps(item, key) for key in granted)]
        text = f"{text}. {noun}: " + ", ".join(patterns)
        text += f"; never: {', '.join(denied)}" if denied else ""
        end = "…; see whoami"
        is_long = len(text) > MAX_DESCRIPTION
        return text[: MAX_DESCRIPTION - len(end)] + end if is_long else text


def _hints(tool: Tool) -> ToolAnnotations:
    return tool.annotations or ToolAnnotations()


def make_tool(
    name: str,
    text: str,
    schema: dict[str, Any],
    reads: bool,
    destroys: bool = False,
    repeats: bool = True,
) -> Tool:
    """Return the definition of a tool, with its hints."""
    return Tool(
        name=name,
        description=text,
        input_schema=schema,
        output_schema=RESULT,
        annotations=ToolAnnotations(
            read_only_hint=reads,
            destructive_hint=destroys,
            idempotent_hint=repeats,
            open_world_hint=False,
        ),
    )
