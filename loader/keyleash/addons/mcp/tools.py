"""The tools of a token: one for each command that its grants allow, or for each class of them.

The list is for the model. A tool that is not listed may still be called: the guard decides.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from mcp_types import Tool, ToolAnnotations

from keyleash.addons.mcp import forms
from keyleash.commands import CommandSpec, CommandTable, OperationClass
from keyleash.evaluate.abilities import allowed_commands
from keyleash.policy import Grant, Pattern, overlaps
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS

MAX_NAME, MAX_DESCRIPTION = 60, 200
_WORDS = {"type": "array", "items": forms.BYTES, "minItems": 1, "maxItems": MAX_ARGUMENTS}
_COMMANDS = {"type": "array", "items": _WORDS, "minItems": 1, "maxItems": MAX_BATCH_COMMANDS}
_STRINGS = {"type": "array", "items": forms.STRING, "maxItems": MAX_ARGUMENTS}
_CLASSES = {"type": "array", "items": {"enum": [*OperationClass]}}
_PAIRS = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
BY_WORDS = {
    "read": ("Run a command that only reads", "GET"),
    "write": ("Run a command that writes", "SET"),
    "delete": ("Run a command that deletes", "DEL"),
}
"""The tools of classes of operations: what they do, and a command of theirs."""
SCHEMAS = {
    **{name: forms.object_of({"command": _WORDS}, ["command"]) for name in BY_WORDS},
    "batch": forms.object_of({"commands": _COMMANDS}, ["commands"]),
    "delegate": forms.object_of(
        {"ttl": forms.STRING, "allow": _CLASSES, "keys": _STRINGS, "bind": _PAIRS, "budget": _PAIRS}
    ),
    "whoami": forms.object_of({}),
}
"""The arguments of tools that are no command."""
OF_SCRIPT = forms.object_of({key: {**_WORDS, "minItems": 0} for key in ("keys", "arguments")})


@dataclass(frozen=True)
class Access:
    """The access of a token, as its guard publishes it; no grants if the policy hides them.

    With *by_class* its tools are classes of operations; *generation* is that of the policy.
    """

    grants: Sequence[Grant] | None
    deny: Sequence[Pattern] | None
    table: CommandTable
    delegates: bool = False
    by_class: bool = False
    generation: int = 0

    @cached_property
    def commands(self) -> Mapping[str, list[Grant]]:
        """The grants of each command of which some call is allowed."""
        grants = self.grants or ()
        allowed = allowed_commands(grants, self.table)
        by_command: dict[str, list[Grant]] = {name: [*grants] for name in allowed.together}
        for grant, names in zip(grants, allowed.by_grant, strict=True):
            for name in names:
                by_command.setdefault(name, []).append(grant)
        return by_command

    @cached_property
    def scripts(self) -> Mapping[str, tuple[str, list[Grant]]]:
        """The digest and the grants of each approved script, by the name of its tool.

        The scripts of a library share a name, and are no tools.
        """
        found: dict[str, dict[str, list[Grant]]] = {}
        for grant in self.grants or ():
            for script in grant.scripts:
                found.setdefault(script.name, {}).setdefault(script.digest, []).append(grant)
        taken = {*SCHEMAS, *map(forms.tool_name, self.table.commands)}
        tools = ((name, forms.tool_name(name)) for name in sorted(found))
        names = {name: f"script_{tool}" if tool in taken else tool for name, tool in tools}
        # Names that are the same in the alphabet of tools, or too long, end in a digest.
        counts = Counter(names.values())
        return {
            tool if counts[tool] == 1 and len(tool) <= MAX_NAME else _digested(name): item
            for name, tool in names.items()
            for item, *others in [[*found[name].items()]]
            if not others
        }

    @cached_property
    def templates(self) -> Mapping[bytes | str, str]:
        """The first capture of each pattern of keys that has one."""
        patterns = (pattern for grant in self.grants or () for pattern in grant.keys)
        return {item.source.encode(): item.captures[0] for item in patterns if item.captures}

    @cached_property
    def by_tool(self) -> Mapping[str, CommandSpec]:
        """The commands by the names of their tools, listed or not."""
        return {forms.tool_name(spec.name): spec for spec in filter(forms.is_usable, self.table)}

    def patterns(self, names: Iterable[str], cls: str = "", like: str = "") -> list[str]:
        """Return the patterns on which grants of any or one class allow commands, likest first."""
        several = [
            getattr(grant, _field_of(self.table.get(name)))
            for name in names
            for grant in self.commands.get(name, ())
            if not cls or cls in grant.allow
        ]
        found = dict.fromkeys(pattern.source for patterns in several for pattern in patterns)
        pairs = {*pairwise(like)}
        return sorted(found, key=lambda source: -len(pairs & {*pairwise(source)}) / len(source))

    def never(self, patterns: Collection[str]) -> list[str]:
        """Return the patterns of denied keys that overlap *patterns* of keys."""
        keys = [key for grant in self.grants or () for key in grant.keys if key.source in patterns]
        return [item.source for item in self.deny or () if any(overlaps(item, key) for key in keys)]

    def tools(self) -> list[Tool]:
        """Return the tools, in an order that does not depend on that of the grants."""
        tools = [*self._tools()]
        hints = [tool.annotations for tool in tools if tool.annotations]
        if len(tools) > 1 or (tools and self.by_class):
            text = 'Run several commands, all or none: [["SET", "key", "value"], …]'
            reads = all(hint.read_only_hint for hint in hints)
            destroys = any(hint.destructive_hint for hint in hints)
            tools.append(make_tool("batch", text, SCHEMAS["batch"], reads, destroys))
        if self.delegates:
            text = "Make a token for another agent, which may do no more; ttl is 10m or the like"
            tools.append(make_tool("delegate", text, SCHEMAS["delegate"], False, False))
        text = "Show what this token may do, when it expires, and what is left of its limits"
        return [*tools, make_tool("whoami", text, SCHEMAS["whoami"], True)]

    def _tools(self) -> Iterator[Tool]:
        names = ["PUBLISH"]
        if self.grants is not None and not self.by_class:
            named = {name for grant in self.grants for name in grant.only or ()}
            names = [*forms.FORMS, *sorted(named - forms.FORMS.keys())]
        known = self.table.commands if self.grants is None else self.commands
        specs = {name: self.table.commands[name] for name in names if name in known}
        specs = {name: spec for name, spec in specs.items() if forms.is_usable(spec)}
        for name, spec in specs.items():
            form, reads = forms.form_of(spec), forms.class_of(spec) == "read"
            text = self._text(form.text, [name])
            destroys, repeats = not reads and "+" not in form.marks, reads or "=" in form.marks
            found = form.schema, reads, destroys, repeats, form.results
            yield make_tool(forms.tool_name(name), text, *found)
        for name, (_, grants) in self.scripts.items():
            keys = [pattern.source for grant in grants for pattern in grant.keys]
            text = self._text("Run this script", (), keys)
            yield make_tool(name, text, OF_SCRIPT, False)
        unnamed = map(self.table.commands.__getitem__, sorted(self.commands.keys() - specs.keys()))
        classes = {spec.name: forms.class_of(spec) for spec in unnamed if forms.is_usable(spec)}
        for cls, (text, example) in BY_WORDS.items():
            others = [name for name, of in classes.items() if of == cls]
            # SORT and the like, which need `read` alone, are no reason for the tool `write`.
            keys = self.patterns(others, "" if cls == "read" else cls)
            if keys or self.grants is None:
                first = example if example in others or not others else others[0]
                shown = self._text(f'{text}, by its words: ["{first}", …]', others, keys)
                yield make_tool(cls, shown, SCHEMAS[cls], cls == "read")

    def _text(self, text: str, names: Sequence[str], patterns: Sequence[str] = ()) -> str:
        """Return a description: what a tool does, on which keys, and on which of them never."""
        if self.grants is None:
            return f"{text}. The allowed keys are hidden"
        patterns = patterns or self.patterns(names)
        never = self.never(patterns)
        noun = _field_of(self.table.get(names[0]) if names else None).capitalize()
        text = f"{text}. {noun}: {', '.join(patterns)}"
        text += f"; never: {', '.join(never)}" if never else ""
        end = "…; see whoami"
        return text if len(text) <= MAX_DESCRIPTION else text[: MAX_DESCRIPTION - len(end)] + end


def _digested(name: str) -> str:
    end = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{forms.tool_name(name)[: MAX_NAME - 9]}_{end}"


def _field_of(spec: CommandSpec | None) -> str:
    """Return the list of a grant that covers what a command is about."""
    if spec is None:
        return "keys"
    return "channels" if spec.channel is not None else "indexes" if spec.index else "keys"


def make_tool(
    name: str,
    text: str,
    schema: dict[str, Any],
    reads: bool,
    destroys: bool | None = None,
    repeats: bool | None = None,
    kinds: Sequence[str] = (),
) -> Tool:
    """Return a tool; by default what does not only read is destructive, and not idempotent."""
    found = {"properties": {"result": {"type": [*kinds]}}} if kinds else {}
    return Tool(
        name=name,
        description=text,
        input_schema=schema,
        output_schema={"type": "object", **found, "required": ["result"]},
        annotations=ToolAnnotations(
            read_only_hint=reads,
            destructive_hint=not reads if destroys is None else destroys,
            idempotent_hint=reads if repeats is None else repeats,
            open_world_hint=False,
        ),
    )
