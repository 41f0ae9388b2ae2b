"""Commands as tools: their arguments, and the words that these become."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.facts import KEYLESS_PASSES
from keyleash.commands.spec import KeyRange, NumberedKeys, Waits
from keyleash.store.wire import MAX_ARGUMENTS

_FORMS = """
GET key -> string object null: Read a string
GETRANGE key start end -> string object: Read bytes of a string, the last included
SET key value [EX seconds] [NX] -> boolean null: =Write a string over what the key holds
INCRBY key by -> integer: Add to an integer
DEL keys... -> integer: =Delete keys
TYPE key -> string: Read the type of a key
TTL key -> integer: Read the seconds until a key expires; -1 never, -2 no key
EXPIRE key seconds -> boolean: =Let a key expire
SCAN cursor MATCH pattern COUNT 200 -> array: List keys; begin with cursor 0, go on until it is 0
HGET key field -> string object null: Read a field of a hash
HGETALL key -> object: Read a hash
HSET key {fields} -> integer: =Write fields of a hash
HDEL key fields... -> integer: =Delete fields of a hash
RPUSH key values... -> integer: +Append to a list
LRANGE key start stop -> array: Read part of a list, the last included; -1 is its end
LPOP key -> string object null: Remove and return the head of a list
SADD key members... -> integer: +=Add to a set
SMEMBERS key -> array: Read a set
SREM key members... -> integer: =Remove from a set
ZADD key score member -> integer: =Add a member to a sorted set, or set its score
ZRANGE key start stop WITHSCORES -> array: Read part of a sorted set by rank; -1 is its end
ZREM key members... -> integer: =Remove from a sorted set
XADD key * {fields} -> string: +Append to a stream
XRANGE key from_id to_id [COUNT count] -> array: Read a stream between two ids; - and + are its ends
XDEL key ids... -> integer: =Delete entries of a stream
PUBLISH channel message -> integer: +Publish a message
JSON.GET key [path]: Read a JSON document, or what a path selects
JSON.SET key path value: =Write JSON text at a path; $ is the whole document
JSON.DEL key [path]: =Delete a JSON document, or what a path selects
FT.SEARCH index query [LIMIT 0 count]: Search an index
"""
"""Commands as their documentation writes them, the JSON types of results, and what they do.

`name...` is a list, `{name}` pairs, `#name...` a list after its length, `[WORD name]` optional. Of
those that change data, `+` replaces and deletes none of it, and `=` leaves the same if repeated.
"""

STRING: Mapping[str, Any] = {"type": "string"}
BYTES: Mapping[str, Any] = {"type": ["string", "object"]}
"""A text, or `{"base64": …}`."""
_TYPES = {
    **dict.fromkeys(("value", "values", "member", "members", "message"), BYTES),
    **dict.fromkeys(("key", "keys", "field", "fields", "arguments"), BYTES),
    **{name: {"type": "integer"} for name in ("by", "count", "end", "seconds", "start", "stop")},
    "cursor": {"type": ["string", "integer"]},
    # Words before a path are options.
    "path": {"type": "string", "pattern": r"^[$.]"},
    "score": {"type": "number"},
}


class Part(NamedTuple):
    """Words of a call, and an argument: a `word`, `list`, `counted` list, `pairs`, or none."""

    words: tuple[str, ...]
    name: str
    kind: str
    is_optional: bool

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of its argument."""
        item = dict(_TYPES.get(self.name, STRING))
        if self.kind == "pairs":
            return {"type": "object", "additionalProperties": item, "minProperties": 1}
        if self.kind in ("list", "counted"):
            least = {} if self.is_optional else {"minItems": 1}
            return {"type": "array", "items": item, "maxItems": MAX_ARGUMENTS, **least}
        return item if self.kind else {"type": "boolean"}

    def call(self, value: Any) -> Iterator[bytes | str]:
        """Yield the words for a value of its argument."""
        yield from self.words
        if self.kind == "counted":
            yield str(len(value))
        if self.kind:
            items = [value] if self.kind == "word" else value
            if self.kind == "pairs":
                items = [item for pair in value.items() for item in pair]
            yield from (word_of(item, self.name) for item in items)


class Form(NamedTuple):
    """A tool that is one command, as a line of `_FORMS` has it."""

    command: str
    parts: tuple[Part, ...]
    results: list[str]
    text: str
    marks: str

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the arguments."""
        named = [part for part in self.parts if part.name]
        required = [part.name for part in named if not part.is_optional]
        return object_of({part.name: part.schema for part in named}, required)

    def call(self, given: Mapping[str, Any]) -> list[bytes | str]:
        """Return the words of the call for arguments that fit the schema; see `word_of`."""
        words: list[bytes | str] = [self.command]
        for part in self.parts:
            value = given.get(part.name, False)
            if not part.name or value is not False:
                words += part.call(value)
        return words


def object_of(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    """Return the JSON Schema of an object without other properties."""
    needed = {"required": required} if required else {}
    return {"type": "object", "properties": properties, **needed, "additionalProperties": False}


def word_of(value: Any, name: str = "command") -> bytes:
    """Return a word of a call; raise ValueError if it is neither UTF-8 nor `{"base64": …}`."""
    if not isinstance(value, dict):
        return str(value).encode()
    with suppress(TypeError, ValueError):
        (text,) = value.values()
        return base64.b64decode(text if "base64" in value else "?", validate=True)
    raise ValueError(f'`{name}` has an object that is not {{"base64": …}} with valid base64')


def _form(line: str, command: str = "") -> Form:
    usage, _, text = line.partition(": ")
    usage, _, results = usage.partition(" -> ")
    if not command:
        command, _, usage = usage.partition(" ")
    parts = map(_part, re.findall(r"\[[^]]+\]|\S+", usage))
    bare = text.lstrip("+=")
    return Form(command, tuple(parts), results.split(), bare, text[: -len(bare)])


def _part(item: str) -> Part:
    *words, last = item.strip("[]").split()
    if last.upper() == last:
        # Optional words alone are a flag, named by the last of them.
        return Part((*words, last), last.lower() if item[0] == "[" else "", "", item[0] == "[")
    kinds = {"{": "pairs", "#": "counted"}
    kind = kinds.get(last[0], "list" if last.endswith("...") else "word")
    return Part(tuple(words), last.strip("#{}."), kind, item[0] == "[")


FORMS = {form.command: form for form in map(_form, _FORMS.strip().splitlines())}
"""The forms of the commands that models use most, in the order of tools."""


@cache
def form_of(spec: CommandSpec) -> Form:
    """Return the form of a command; without a line of `_FORMS`, as its row in the table has it."""
    if spec.name in FORMS:
        return FORMS[spec.name]
    usage = "arguments..."
    match spec.keys:
        case [KeyRange(first=1, last=1)]:
            usage = "key" if spec.arity == 2 else "key [arguments...]"
        case [KeyRange(first=1, last=-1, step=1)]:
            usage = "keys..."
        case [NumberedKeys(count_at=1, step=1)]:
            usage = "#keys... [arguments...]"
        case [KeyRange(first=1, last=1), NumberedKeys(count_at=2)]:
            usage = "key #keys... [arguments...]"
    return _form(f"{usage}: Run {spec.name}", spec.name)


def tool_name(command: str) -> str:
    """Return the name of the tool of a command or a script."""
    return re.sub(r"[^a-z0-9_-]", "_", command.lower())


def is_usable(spec: CommandSpec) -> bool:
    """Return whether tools may run a command: it is about keys, and does not wait."""
    is_of_keys = spec.subscribes is None and not spec.counts and spec.name not in KEYLESS_PASSES
    return is_of_keys and spec.refused is None and spec.waits in (None, Waits.BLOCK)


def class_of(spec: CommandSpec) -> str:
    """Return the tool that runs a command by its words: `read`, `write`, `delete`, `publish`."""
    needs = {*spec.needs, *(cls for keys in spec.keys for cls in keys.needs)}
    for cls in (OperationClass.DELETE, OperationClass.WRITE, OperationClass.PUBLISH):
        if cls in needs:
            return str(cls)
    return "write" if spec.mutates else "read"
