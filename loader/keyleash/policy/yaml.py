"""A parser for a safe subset of YAML, whose nodes have their places in the file.

The text is read from PyYAML's events: no Python object is constructed from a tag, no alias is
expanded, and duplicate fields are reported.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import yaml

from keyleash.errors import PolicyError, Span
from keyleash.policy.problems import Problems, fail, quote

Path = tuple[str | int, ...]


class Broken(Enum):
    """The value of a node with a reported problem."""

    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class YamlNode:
    """
    A value of the document.

    Attributes:
        value: A scalar, a tuple of nodes, nodes by field name, or `BROKEN`.
        span: The start of the value.
        end: The end of the value; of indented values, the start of the next one.
        label: The place of its field's name; `span` for the entries of a list.
        source: A scalar's text, without quotes.
        partial: Whether fields or entries were reported and left out.
        is_flow: Whether it is a list or mapping in brackets.
    """

    value: str | int | bool | tuple[YamlNode, ...] | dict[str, YamlNode] | Broken | None
    span: Span
    end: Span
    label: Span
    source: str = ""
    partial: bool = False
    is_flow: bool = False

    @property
    def fields(self) -> dict[str, YamlNode]:
        """The fields of a mapping; none for other values."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def entries(self) -> tuple[YamlNode, ...]:
        """The entries of a list; none for other values."""
        return self.value if isinstance(self.value, tuple) else ()

    def get(self, name: str) -> YamlNode | None:
        """Return the field of that name, or None."""
        return self.fields.get(name)


MAX_DEPTH, MAX_ENTRIES = 16, 10_000
"""More than any policy needs, and far below Python's recursion limit; a list takes seconds."""


def read_document(
    text: str, file: str, problems: Problems, first: str = "`version: 1` and `identities:`"
) -> YamlNode:
    """
    Read a YAML or JSON text as a tree.

    Args:
        problems: Receives problems after which reading continues.
        first: The first fields of a document, for the help on an empty one.

    Returns:
        The document's root.

    Raises:
        PolicyError: The text cannot be read to its end; with all earlier problems.
    """
    try:
        return _Reader(_tabs_to_spaces(text), file, problems, first).document()
    except PolicyError as error:
        stop = error
    except yaml.YAMLError as error:
        stop = _unreadable(error, text, file)
    raise problems.error(stop)


def _tabs_to_spaces(text: str) -> str:
    # PyYAML rejects tabs between tokens, where JSON allows them. Valid JSON has
    # no raw tab inside a string, so the change alters no value and no column.
    if "\t" not in text or text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text.replace("\t", " ")


def _unreadable(error: yaml.YAMLError, text: str, file: str) -> PolicyError:
    """Return PyYAML's error as a problem with its place."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        char = text[error.position].encode("unicode_escape").decode()
        return fail(
            "bad-yaml",
            f"cannot read the document: the character `{char}` is not allowed in YAML",
            Span(file, line, column),
            'remove it, or write it as an escape in double quotes, such as "\\u0007"',
        )
    # Every other error of PyYAML's scanner and parser is a marked one.
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    span = Span(file, mark.line + 1, mark.column + 1) if mark else Span(file, 1, 1)
    problem = str(getattr(error, "problem", None) or error)
    problem = re.sub(r"'([^']*)'", r"`\1`", problem)
    help = next((help for word, help in _SYNTAX_HELP.items() if word in problem))
    return fail("bad-yaml", f"cannot read the document: {problem}", span, help)


_SYNTAX_HELP = {
    "\\t": "indent with spaces; YAML does not allow tabs there",
    "nested": "a policy needs no more than six levels",
    "entries": "use wider patterns, or more identities",
    "escape": "write backslashes twice, or use single quotes",
    "": "check indentation, brackets and quotes; key patterns are best written in double quotes",
}
"""Help by a part of PyYAML's message."""


_UNLIKE = re.compile(r"[^\n -~\xa1-\u2027\u2030-\ud7ff]|[?!]|[|>][-+0-9]* *[#\n]|[^\n]\Z")
"""What PyYAML's parsers may read differently: `?`, `!`, block scalars, and unusual characters.

Without a line break at the end they have other places for it.
"""


def _loader_of(text: str) -> Any:
    """Return PyYAML's loader in C, which takes a tenth of the time, or the one in Python.

    That one reads whatever the other might read differently, if only in the message of an error or
    the place of an empty value.
    """
    if not yaml.__with_libyaml__ or _UNLIKE.search(text):
        return yaml.SafeLoader(text)
    # It takes no subclass of str, such as the text of a stored document.
    plain, depth = str(text), 0
    try:
        for event in yaml.parse(plain, Loader=yaml.CSafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            is_empty = isinstance(event, yaml.ScalarEvent) and not (event.value or event.style)
            # A text that is nested too deep is not read to its end.
            if is_empty or depth > MAX_DEPTH + 1:
                return yaml.SafeLoader(text)
    except yaml.YAMLError:
        return yaml.SafeLoader(text)
    return yaml.CSafeLoader(plain)


class _Reader:
    """Builds nodes from the events of one text."""

    def __init__(self, text: str, file: str, problems: Problems, first: str) -> None:
        self._first = first
        self._loader = _loader_of(text)
        self._file = file
        self._problems = problems

    def document(self) -> YamlNode:
        self._next()  # the start of the stream
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            raise self._empty(Span(self._file, 1, 1))
        root = self._node(None, ())
        self._next()  # the end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise fail(
                "bad-yaml",
                "a second document begins here",
                self._span(event.start_mark),
                "put one policy in one file, without `---` in the middle",
            )
        if root.value is None:
            raise self._empty(root.span)
        return root

    def _empty(self, span: Span) -> PolicyError:
        return fail("empty-document", "the document is empty", span, f"begin with {self._first}")

    def _peek(self) -> Any:
        try:
            return self._loader.peek_event()
        except (ValueError, OverflowError) as error:
            # PyYAML passes an escape such as \UFFFFFFFF to chr() unchecked.
            raise yaml.MarkedYAMLError(
                problem="an escape or a number is out of range",
                problem_mark=self._loader.get_mark(),
            ) from error

    def _next(self) -> Any:
        self._peek()
        return self._loader.get_event()

    def _span(self, mark: Any) -> Span:
        return Span(self._file, mark.line + 1, mark.column + 1)

    def _node(self, label: Span | None, path: Path) -> YamlNode:
        event = self._next()
        span = self._span(event.start_mark)
        if len(path) > MAX_DEPTH or path[-1:] == (MAX_ENTRIES,):
            problem = "nested too deep" if len(path) > MAX_DEPTH else "too many entries in a list"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        node = self._value(event, YamlNode(None, span, span, label or span), path)
        if not isinstance(event, yaml.AliasEvent) and event.tag is not None:
            shown = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._problems.add(
                "yaml-tag", f"the tag {quote(shown)} is not allowed", span, "remove the tag"
            )
            return replace(node, value=Broken.BROKEN)
        return node

    def _value(self, event: Any, node: YamlNode, path: Path) -> YamlNode:
        if isinstance(event, yaml.AliasEvent):
            # Not expanded: a few nested aliases make billions of values.
            self._problems.add(
                "yaml-alias",
                f"the alias {quote(f'*{event.anchor}')} is not allowed",
                node.span,
                "write the value out, so that a reader sees all of it in place",
            )
            return replace(node, value=Broken.BROKEN)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, replace(node, end=self._span(event.end_mark)))
        node = replace(node, is_flow=bool(event.flow_style))
        is_list = isinstance(event, yaml.SequenceStartEvent)
        return (self._sequence if is_list else self._mapping)(node, path)

    def _scalar(self, event: Any, node: YamlNode) -> YamlNode:
        text = self._text(event.value, node.span)
        if text is None:
            return replace(node, value=Broken.BROKEN)
        return replace(node, value=text if event.style else resolve(text), source=text)

    def _text(self, text: str, span: Span) -> str | None:
        try:
            # JSON writes a character beyond U+FFFF as two escapes; PyYAML leaves two halves.
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._problems.add(
                "bad-text",
                "the text has half of a surrogate pair, which is not a character",
                span,
                "write the character itself, in UTF-8",
            )
            return None

    def _sequence(self, node: YamlNode, path: Path) -> YamlNode:
        entries: list[YamlNode] = []
        while not isinstance(self._peek(), yaml.SequenceEndEvent):
            entries.append(self._node(None, (*path, len(entries))))
        return replace(node, value=tuple(entries), end=self._span(self._next().end_mark))

    def _mapping(self, node: YamlNode, path: Path) -> YamlNode:
        fields: dict[str, YamlNode] = {}
        partial = False
        while not isinstance(self._peek(), yaml.MappingEndEvent):
            key = self._key(path)
            if isinstance(key.value, Broken):
                self._skip(path)
                partial = True
                continue
            value = self._node(key.span, (*path, key.source))
            if key.source in fields:
                self._report_duplicate(key, fields[key.source], path)
            else:
                fields[key.source] = value
        end = self._span(self._next().end_mark)
        return replace(node, value=fields, partial=partial, end=end)

    def _skip(self, path: Path) -> None:
        """Read the value of a rejected field without reporting its problems."""
        reported, self._problems = self._problems, Problems()
        self._node(None, (*path, ""))
        self._problems = reported

    def _key(self, path: Path) -> YamlNode:
        """Return the name of a field as text; broken if it is not a scalar."""
        merge = not getattr(self._peek(), "style", "any")
        key = self._node(None, (*path, ""))
        if merge and key.source == "<<":
            self._problems.add(
                "yaml-merge",
                "the merge key `<<` is not allowed",
                key.span,
                "write the fields out, or use `defaults` for `token` and `audit`",
            )
            return replace(key, value=Broken.BROKEN)
        if isinstance(key.value, tuple | dict):
            self._problems.add(
                "bad-field-name",
                "a field's name must be plain text",
                key.span,
                "put braces and brackets of a text in quotes",
            )
            return replace(key, value=Broken.BROKEN)
        return key

    def _report_duplicate(self, key: YamlNode, first: YamlNode, path: Path) -> None:
        noun = "identity" if path == ("identities",) else "field"
        self._problems.add(
            f"duplicate-{noun}",
            f"the {noun} {quote(key.source)} is already on line {first.label.line}",
            key.span,
            "remove one of the two, or rename it",
        )


def resolve(text: str) -> str | int | bool | None:
    """
    Return the value of an unquoted scalar by the rules of JSON.

    Other rules of YAML 1.1 are surprising: `on` and `yes` as booleans, `12:30` as 750, `0777`
    as 511, `1e3` as a float. All of these remain text here.
    """
    if text in ("", "~", "null"):
        return None
    if text in ("true", "false"):
        return text == "true"
    # 100 digits are below int()'s own limit, and above every bound of a policy.
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,99})", text):
        return int(text)
    return text
