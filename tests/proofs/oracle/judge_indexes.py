"""Decide whether a call may use a search index of a server, as its guard must."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from keyleash.commands import work as bounds
from keyleash.commands.facts import (
    FUNCTIONS,
    INDEX_OPTIONS,
    LISTS_INDEXES,
    TEXT_FUNCTIONS,
    VECTOR_OPTIONS,
)
from keyleash.commands.refusals import why_argument
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import Argv
from keyleash.evaluate.indexes import IndexCall
from keyleash.evaluate.trace import ALLOWED, ArgumentStep, Aspect, Decision, Match, refused
from keyleash.policy import Grant
from keyleash.store.live_table import reply_mapping
from proofs.oracle.judge_size import refused_work

_MOST_BYTES = {
    "p": bounds.MAX_PARAM_BYTES,
    "x": bounds.MAX_EXPRESSION_BYTES,
    "m": bounds.MAX_MARK_BYTES,
}
_TYPES = (b"AS", b"TEXT", b"TAG", b"NUMERIC", b"GEO", b"GEOSHAPE", b"VECTOR")
_STEPS = ("APPLY", "FILTER", "GROUPBY", "REDUCE")
_LISTED = (("REDUCE", b"R"), ("REDUCE", b"T"))
_NAME = re.compile(rb"([^-\s+*/%^,!<>=&|'\"()]+)\s*(\(?)")
_EXPANDS = re.compile(rb"[wW]'|%|[^\s(|{]\*|\*[^\s)|}]")
_OF_QUERIES = ("VERBATIM", "INORDER", "SLOP", "TIMEOUT", "PARAMS", "DIALECT")
_OF_SCORES = ("WITHSCORES", "EXPLAINSCORE", "ADDSCORES", "SCORER")


Option = tuple[str, Sequence[bytes]]
"""An option of a call, and the words after it."""


@dataclass(frozen=True, slots=True)
class ServerIndexCall(IndexCall):
    """A call that may name a search index of a server."""

    def contents(
        self, giving: Sequence[Grant], named: Sequence[Match[Grant]]
    ) -> Iterator[Decision]:
        name = self.spec.name
        (options, broken), creates = _options(name, self.argv), name == "FT.CREATE"
        prefixes, wrong = _created(options) if creates else ((), None)
        if creates and not broken:
            listed = (self.sizes and self.sizes.ask((LISTS_INDEXES,), (), ())) or ()
            items = [item for grant in giving for item in grant.indexes if not item.where]
            own = [key for key in listed if any(self.is_bound(item, key) for item in items)]
            wrong = b"INDEXES" if len(own) >= bounds.MAX_INDEXES else wrong
        for word in (broken, _broken_schema(name, self.argv), wrong):
            yield self.refused_word(word)
        reply = None if creates else self.ask("FT.INFO")
        info = None if reply is None else reply_mapping(reply)
        if info is not None:
            prefixes = reply_mapping(info.get("index_definition", ())).get("prefixes") or [b""]
        filtered = self.filter(named)
        for prefix in prefixes:
            yield self.prefix(prefix, is_filtered=filtered is not None)
        documents = int((info or {}).get("num_docs", 0))
        if name in ("FT.SEARCH", "FT.AGGREGATE"):
            yield from self.search(options, filtered, info, documents)
        else:
            deletes = name == "FT.DROPINDEX" and len(self.argv) > 2
            yield self.work(documents * bounds.DOCUMENT_WORK if deletes else 0)

    @property
    def sizes(self) -> Any:
        return getattr(self.state.data, "sizes", None)

    def ask(self, name: str, *words: bytes) -> Any:
        """Return the reply to a command that reads the index; None without one, or a server."""
        sizes = self.sizes
        return None if sizes is None else sizes.ask((name,), self.argv[1:2], words)

    def refused_word(self, word: bytes | None) -> Decision:
        if word is None:
            return ALLOWED
        why = why_argument(self.spec, word.decode("latin-1"))
        step = ArgumentStep(Aspect.OPTION, word, why=why, code=ReplyCode.COMMAND_REFUSED)
        self.trace.append(step)
        return refused(ReplyCode.COMMAND_REFUSED, command=self.command.name + b" " + word)

    def search(
        self,
        options: Sequence[Option],
        filtered: Mapping[str, bytes] | None,
        info: Mapping[str, Any] | None,
        documents: float,
    ) -> Iterator[Decision]:
        """Yield the verdicts on the query, its filter and its work."""
        query, forced = self.argv[2] if len(self.argv) > 2 else b"", list[bytes]()
        is_long = len(query) > bounds.MAX_QUERY_BYTES
        query = b"*" if is_long else query
        is_filtered = filtered is not None
        broken = _broken_bound(query, options, is_filtered=is_filtered, is_long=is_long)
        if filtered:
            documents, wraps = inf, list[bytes]()
            inner, near = _split(query)
            if broken is None and _EXPANDS.search(re.sub(rb"(?s)\\.", b"x", inner)):
                broken = b"EXPANSIONS"
            for field, value in filtered.items():
                kind = None if info is None else _kind_of(field, info)
                yield self.value(kind, value)
                name = field.encode()
                if kind == "NUMERIC" and self.spec.name == "FT.SEARCH":
                    forced += [b"FILTER", name, value, value]
                elif kind == "NUMERIC":
                    wraps.append(b"@%s:[%s %s]" % (name, value, value))
                else:
                    wraps.append(b"@%s:{%s}" % (name, re.sub(rb"(?=\W|_)", rb"\\", value)))
            if wraps:
                is_all = inner.strip() == b"*"
                is_open = not (is_all or _is_enclosed(inner))
                if is_open and broken in (None, b"TERMS", b"EXPANSIONS"):
                    broken = b"BRACKETS"
                wraps += [] if is_all else [b"(%s)" % inner]
                query = b"(%s)%s" % (b" ".join(wraps), near)
            forced += [b"SCORER", b"DOCSCORE"] if self.spec.name == "FT.SEARCH" else []
        forced += [b"DIALECT", b"2" if filtered else b"1"]
        yield self.refused_word(broken)
        definition = reply_mapping((info or {}).get("index_definition", ()))
        on_json, own = definition.get("key_type") == b"JSON", b"".join(self.argv[2:3])
        strings = 2 * (len(filtered or ()) + own.count(b"=>"))
        rows = _Rows(documents, documents, bounds.HIT_WORK, strings, on_json)
        if self.spec.name == "FT.SEARCH":
            rows.read_search(options, own)
        else:
            rows.read_aggregation(options)
        yield self.work(self.cost([query, *forced], options, rows))

    def value(self, kind: str | None, value: bytes) -> Decision:
        """Check that a field can filter by a value; without an index the kind is None."""
        is_number = re.fullmatch(rb"0|-?[1-9][0-9]*", value) and len(value) < 16
        why = "unbound" if not value else None
        if not re.fullmatch(rb"[\w.@-]*", value):
            why = "value"
        elif not (why or kind in ("TAG!", None) or (kind == "NUMERIC" and is_number)):
            why = "field" if kind != "TAG" else "case" if value != value.lower() else None
        if why is None:
            return ALLOWED
        code = ReplyCode.INDEX_NOT_GRANTED
        self.trace.append(ArgumentStep(Aspect.INDEX, self.argv[1], code=code))
        return refused(code, index=self.argv[1], reason=why)

    def cost(self, sent: Sequence[bytes], options: Sequence[Option], rows: _Rows) -> float:
        """Return the work of the rows of a search, and of the strings in them."""
        left, units = self.identity.work, self.identity.string_units
        cost = rows.work(units)
        is_search = self.spec.name == "FT.SEARCH"
        if is_search and cost > left:
            reply = self.ask("FT.SEARCH", *sent, *_words(options, limit=(b"0", b"0")))
            rows.documents = reply[0] if reply else 0
        is_weighed, is_counted = is_search, is_search
        for _ in range(2):
            cost = rows.work(units)
            is_long = cost <= left and rows.returned > bounds.COMPARED_STRINGS
            if not is_weighed and (rows.copies >= 1 or is_long):
                is_weighed = True
                self.measure(sent, options, rows)
                cost = rows.work(units)
            if not is_counted and cost > left and rows.bytes_of(bounds.TIMED_ROWS) <= left:
                is_counted = True
                counting = b"GROUPBY 0 REDUCE COUNT 0 AS n".split()
                reply = self.ask("FT.AGGREGATE", *sent, *_words(options), *counting)
                rows.shown = float(reply[1][1]) if reply and len(reply) > 1 else 0
                cost = rows.work(units)
        if not (is_search and rows.is_shown) or rows.shown <= 0 or cost > left:
            return cost
        wide = 0.0
        found = self.ask("FT.SEARCH", *sent, *_words(options), b"NOCONTENT") or [0]
        for key in found[1 :: 1 + len(rows.parts)]:
            width = 0 if rows.on_json else self.about(key, ("HLEN",))
            wide += rows.strings + (2 * width if rows.is_whole else 0)
            cost = max(cost, wide * units, width * bounds.USAGE_WORK)
            if cost > left:
                break
            rows.held += self.about(key, ("MEMORY", "USAGE"), b"SAMPLES", b"0")
            unit = bounds.MARKING_WORK if rows.is_marked else bounds.BYTE_WORK
            cost = max(cost, rows.held * unit * (1 + rows.copies))
        return cost

    def measure(self, sent: Sequence[bytes], options: Sequence[Option], rows: _Rows) -> None:
        """Read the bytes of the documents of an aggregation."""
        most = int(self.identity.work / self.identity.string_units)
        own = [item for item in options if item[0] in _OF_QUERIES]
        listing = (b"NOCONTENT", b"LIMIT", b"0", b"%d" % most, *_words(own))
        found = self.ask("FT.SEARCH", *sent, *listing) or [0]
        if found[0] > most:
            rows.held = rows.largest = inf
        for key in found[1:]:
            if rows.bytes_of(bounds.TIMED_ROWS) > self.identity.work:
                break
            size = self.about(key, ("MEMORY", "USAGE"), b"SAMPLES", b"0")
            rows.held, rows.largest = rows.held + size, max(rows.largest, size)

    def about(self, key: bytes, command: Sequence[str], *words: bytes) -> float:
        """Return the size of a document."""
        assert self.sizes is not None
        reply = self.sizes.ask(command, (key,), words)
        return inf if reply is None else float(reply)

    def work(self, cost: float) -> Decision:
        work = bounds.SEARCH_WORK + cost
        if work <= self.identity.work:
            return ALLOWED
        return refused_work(work, self.identity, self.spec, self.trace)


@dataclass(slots=True)
class _Rows:
    """The rows of a search.

    Attributes:
        shown, first: How many it returns at the most, behind how many others.
        unit: The work of a row.
        strings: How many a row has.
        lists: How many of them are lists of values of many documents.
        is_whole, is_shown, is_marked: Whether a row is a document, has fields of one, has marks.
        parts: What a row has between its key and its fields.
        copies, held, largest: How often the bytes of a document are copied, those of all documents,
            and of the largest one.
    """

    documents: float
    shown: float
    unit: float
    strings: float
    on_json: bool
    first: float = 0.0
    lists: int = 0
    is_whole: bool = False
    is_shown: bool = True
    is_marked: bool = False
    parts: set[str] = field(default_factory=set)
    copies: float = 0.0
    held: float = 0.0
    largest: float = 0.0

    def read_search(self, options: Sequence[Option], query: bytes) -> None:
        self.shown, self.unit, self.is_whole = 10, bounds.DOCUMENT_WORK, True
        self.strings += 1
        for name, words in options:
            if name == "LIMIT":
                self.first, self.shown = (_number(word, inf) for word in words)
            elif name in ("NOCONTENT", "RETURN"):
                self.unit = bounds.HIT_WORK if len(words) < 2 else self.unit
                self.strings += 2 * max(len(words) - 1, 0)
                self.is_shown = len(words) > 1 or (self.is_shown and not self.is_whole)
                self.is_whole = False
                self.copies = max(self.copies, (len(words) - 4) / 3)
            elif name in ("HIGHLIGHT", "SUMMARIZE"):
                self.unit = bounds.SUMMARY_WORK if name == "SUMMARIZE" else self.unit
                self.is_marked = True
            elif name == "EXPLAINSCORE":
                self.strings += len(query)
            elif name.startswith(("WITHS", "WITHP")):
                self.strings += name not in self.parts
                self.parts.add(name)
        if self.is_whole and self.on_json:
            self.strings, self.is_whole = self.strings + 4, False

    def read_aggregation(self, options: Sequence[Option]) -> None:
        for name, words in options:
            if name == "LIMIT":
                self.first, self.shown = (_number(word, inf) for word in words)
            elif name in ("LOAD", "GROUPBY", "SORTBY"):
                self.unit = bounds.DOCUMENT_WORK if name == "LOAD" else self.unit
                self.strings = (0 if name == "GROUPBY" else self.strings) + 2 * (len(words) - 1)
                self.copies += (len(words) - 1 + 2 * (name == "LOAD" and self.on_json)) / 3
                if words[0] == b"*":
                    self.strings = self.strings + 4 if self.on_json else inf
            elif name in ("FILTER", "REDUCE", "APPLY", "ADDSCORES"):
                self.strings += 2 * (name != "FILTER")
                if name in ("FILTER", "APPLY"):
                    text = words[0].lower()
                    called = [name.decode() for name in re.findall(rb"([a-z_]+)\s*\(", text)]
                    self.copies += len(re.findall(rb"%s|[=<>][\s(]*@", text))
                    self.copies += sum(name in TEXT_FUNCTIONS.split() for name in called)
                self.lists += name == "REDUCE" and words[0][:1].upper() in (b"T", b"R")

    @property
    def number(self) -> float:
        return min(self.shown, max(self.documents - self.first, 0))

    @property
    def returned(self) -> float:
        """The number of strings in the reply."""
        return self.number * self.strings + (self.lists and self.lists * self.documents)

    def bytes_of(self, number: float) -> float:
        """Return the work of the bytes of a number of documents."""
        bytes_ = self.held if number == inf else min(self.held, number * self.largest)
        return bytes_ * (1 + self.copies) * bounds.BYTE_WORK

    def work(self, string_units: float) -> float:
        units = min(self.first, self.documents) * bounds.HIT_WORK + self.number * self.unit
        bytes_ = self.bytes_of(inf if self.lists else max(self.number, bounds.TIMED_ROWS))
        return max(units, self.returned * string_units, bytes_)


def _words(options: Sequence[Option], limit: Sequence[bytes] = ()) -> Iterator[bytes]:
    for name, words in options:
        yield name.encode()
        yield from limit if name == "LIMIT" and limit else words


def _options(name: str, argv: Argv) -> tuple[Sequence[Option], bytes | None]:
    """Return the options of a call, and the word for which it is denied, or None."""
    widths = dict(item.split("=") for item in INDEX_OPTIONS.get(name, "").split())
    options: list[Option] = []
    broken, formats, called, at = None, 0, 0, 2 if name == "FT.CREATE" else 3
    while widths and at < len(argv) and (word := argv[at].decode("latin-1").upper()) != "SCHEMA":
        count, kind = widths.get(word, "")[:1], widths.get(word, "")[1:]
        width = int(count) if count.isdigit() else None
        if count in ("n", "r", "*"):
            place = at + 2 if count == "r" else at + 1
            text = argv[place] if place < len(argv) else b""
            if count == "*" and text == b"*":
                width = 1
            elif re.fullmatch(rb"0|[1-9][0-9]{0,3}", text):
                width = place - at + int(text)
        if width is None or at + width >= len(argv):
            return options, argv[at]
        if len(options) == bounds.MAX_SEARCH_OPTIONS:
            return options, b"STEPS"
        words = argv[at + 1 : at + 1 + width]
        if kind == "p" and width > bounds.MAX_SEARCH_OPTIONS:
            broken = word.encode()
        for text in words:
            if len(text) > _MOST_BYTES.get(kind, bounds.MAX_WORD_BYTES):
                broken = b"STEPS" if kind == "x" else b"WORDS"
            elif kind == "x":
                calls = len(re.findall(rb"format\s*\(", text.lower()))
                formats += calls
                called += sum(opens == b"(" for _, opens in _NAME.findall(text.lower()))
                is_large = formats > 1 or (calls > 0 and text.count(b"%") > bounds.MAX_FORMATTED)
                is_large |= called > bounds.MAX_CALLS
                broken = b"STEPS" if is_large or not _calls_known(text) else broken
            elif kind == "d" and not (text.isdigit() and int(text) <= bounds.MAX_ROWS):
                broken = b"ROWS"
            elif not kind and _selects_many(text):
                broken = b"FIELDS"
        options.append((word, words))
        at += width + 1
    return options, broken


def _calls_known(expression: bytes) -> bool:
    """Return whether an expression calls only functions of the list."""
    names = _NAME.findall(expression.lower())
    return all(not opens or name.decode("latin-1") in FUNCTIONS.split() for name, opens in names)


def _created(options: Sequence[Option]) -> tuple[Sequence[bytes], bytes | None]:
    """Return the prefixes of an FT.CREATE, and the last option for which it is denied."""
    prefixes, broken = list[bytes](), None
    for name, words in options:
        if name == "PREFIX":
            prefixes += words[1:] or [b""]
            broken = b"PREFIX" if any(b"\0" in word for word in words[1:]) else broken
    return prefixes or [b""], broken


def _broken_schema(name: str, argv: Argv) -> bytes | None:
    """Return the word for which the fields of an index may take too much, or None."""
    if name not in ("FT.CREATE", "FT.ALTER"):
        return None
    listed = dict(item.encode().split(b"=") for item in VECTOR_OPTIONS.split())
    upper = [word[:32].upper() for word in argv] + [b""]
    broken = b"WORDS" if len(argv) - 1 > bounds.MAX_INDEX_WORDS else None
    sums = dict[bytes, float]()
    start = upper.index(b"SCHEMA", 2) if b"SCHEMA" in upper[2:] else len(argv)
    start = 2 if name == "FT.ALTER" else start
    for at, text in enumerate(argv[start:], start):
        if len(text) > bounds.MAX_WORD_BYTES:
            broken = b"WORDS"
        elif _selects_many(text):
            broken = b"FIELDS"
        elif upper[at] == b"WITHSUFFIXTRIE":
            broken = upper[at]
        elif upper[at] == b"VECTOR" and upper[at + 1] in (b"FLAT", b"HNSW"):
            count = b"".join(argv[at + 2 : at + 3])
            is_count = re.fullmatch(rb"[1-9][0-9]?", count)
            broken = broken if is_count else upper[at]
            for place in range(at + 3, at + 3 + (int(count) if is_count else 0), 2):
                option, value = b"".join(upper[place : place + 1]), b"".join(argv[place + 1 :][:1])
                most = listed.get(option)
                sums[option] = sums.get(option, 0) + (int(value) if value.isdigit() else inf)
                if most is None:
                    broken = upper[at]
                elif most and sums[option] > int(most):
                    broken = option
        elif upper[at] == b"VECTOR" and upper[at + 1] not in _TYPES:
            broken = upper[at]
    return broken


def _selects_many(path: bytes) -> bool:
    return re.search(rb"(?s)\0|\.\.|\A[@\s]*\$.*[?,]|[\[,:][\s-]*[0-9]{19}", path) is not None


def _number(text: bytes, otherwise: float) -> float:
    return float(text) if re.fullmatch(rb"-?[0-9]+", text) else otherwise


def _broken_bound(
    query: bytes, options: Sequence[Option], *, is_filtered: bool, is_long: bool
) -> bytes | None:
    """Return the name of the last bound that a search breaks, or None."""
    steps = [words[0] for name, words in options if name in _STEPS]
    samples = [
        words[-1]
        for name, words in options
        if name == "REDUCE" and words[0].upper() == b"RANDOM_SAMPLE"
    ]
    wild = query.lower().count(b"w'")
    terms = query.count(b"*") + query.count(b"%") / 2 + wild + 2 * query.count(b"!=")
    terms += 2 * re.sub(rb"[A-Za-z0-9\\]-", b"", query).count(b"-")
    pairs = [pair for name, words in options if name == "PARAMS" for pair in _pairs(words)]
    lower = query.lower()
    found = re.findall(rb"\[\s*knn\s+(\$?\w+)\s+@", query, re.IGNORECASE)
    nearest = [dict(pairs).get(near[1:], near) if near[:1] == b"$" else near for near in found]
    brackets = re.sub(rb"\[+", b"[", re.sub(rb"[^a-z0-9_@$\[]", b"", lower))
    nearest += [b""] * (brackets.count(b"[knn") - len(found))
    nearest += [b""] * (brackets.count(b"[vector") > bounds.MAX_VECTOR_RANGES)
    batches = re.findall(rb"batch_size([\s:]+[1-9][0-9])?", lower)
    if not all(
        [*(near.isdigit() and int(near) <= bounds.MAX_NEIGHBOURS for near in nearest), *batches]
    ):
        return b"KNN"
    is_small = all(_number(sample, inf) <= bounds.MAX_INKEYS for sample in samples)
    stages = [(name, words[0][:1].upper() if words else b"") for name, words in options]
    lists = [
        at for at, (name, first) in enumerate(stages) if name == "REDUCE" and first in (b"R", b"T")
    ]
    groups = [at for at, (name, _) in enumerate(stages) if name == "GROUPBY"]
    has_lists = bool(lists and groups and lists[0] < groups[-1])
    if not is_small or has_lists or len(steps) > bounds.MAX_SEARCH_STEPS:
        return b"STEPS"
    has_marks = re.search(rb"[*%]", query) is not None
    tokens = re.findall(rb"[^\s|(){}\[\]\"]+", re.sub(rb"(?s)\\.", b"xx", query))
    is_large = has_marks and any(len(token) > bounds.MAX_WORD_BYTES for token in tokens)
    is_large |= wild > 0 and len(query) > bounds.MAX_WORD_BYTES
    broken = b"QUERY" if is_long or is_large else None
    if len(re.findall(rb"\[[cdiw]", brackets)) > brackets.count(b"[inf"):
        return b"GEOSHAPE"
    for name, words in options:
        if name in ("RETURN", "LOAD") and len(words) > bounds.MAX_RETURNED + 1:
            broken = b"FIELDS"
        elif (
            (name in ("INKEYS", "FRAGS", "LEN") and not _number(words[0], inf) <= bounds.MAX_INKEYS)
            or (is_filtered and name in _OF_SCORES and b"DOCSCORE" not in words)
            or (name in ("HIGHLIGHT", "SUMMARIZE") and b"knn" in query.lower())
            or (name == "DIALECT" and words[0] not in (b"1", b"2", b"3"))
            or (name == "PARAMS" and not all(_is_param(query, *pair) for pair in _pairs(words)))
        ):
            broken = name.encode()
    if broken is not None:
        return broken
    return b"TERMS" if terms > bounds.MAX_EXPANDED_TERMS else None


def _pairs(words: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(words[1::2], words[2::2], strict=False)


def _is_param(query: bytes, name: bytes, text: bytes) -> bool:
    """Return whether a parameter is short, or stands only where vectors and shapes do."""
    if not re.fullmatch(rb"\w+", name) or len(text) <= bounds.MAX_WORD_BYTES:
        return re.fullmatch(rb"\w+", name) is not None
    used = len(re.findall(rb"\$%s(?!\w)" % name, query))
    fitting = len(re.findall(rb"[\w.]\s+\$%s(?=[\s\]])" % name, query))
    return used <= fitting and b"w'" not in query.lower()


def _kind_of(field: str, info: Mapping[str, Any]) -> str:
    """Return the type of a field: `TAG!` if tags differ by case; "" if it cannot filter."""
    for attribute in info.get("attributes", ()):
        words = [str(word, "latin-1") for word in attribute]
        if words[3] != field:
            continue
        parted = words[words.index("SEPARATOR", 6) + 1] if "SEPARATOR" in words[6:] else ""
        if re.search(r"[\w.@-]", parted, re.ASCII):
            return ""
        return "TAG!" if "CASESENSITIVE" in words[6:] else words[5]
    return ""


def _split(query: bytes) -> tuple[bytes, bytes]:
    """Return a query without its last `=>[KNN …]`, and that."""
    found = re.fullmatch(rb"(?si)(.*?)(=>\s*\[\s*KNN[^\[\]]*\]\s*)", query)
    return (found[1], found[2]) if found else (query, b"")


def _is_enclosed(query: bytes) -> bool:
    """Return whether a query stays within parentheses around it, by a simple scan."""
    rest = re.sub(rb"(?s)\\.", b"x", query)
    rest = re.sub(rb'"[^"]*"' if b'"' in rest else rb"'[^']*'", b"x", rest)
    arrows = rest.count(b"=>") == len(re.findall(rb"=>\s*{", rest))
    if re.search(rb"[\\\"'\0]", rest) or not arrows or not rest.strip():
        return False
    rest = re.sub(rb"\[\s*\(([0-9A-Za-z+.-]+)\s", rb"[\1 ", rest)
    rest = re.sub(rb"\s\(([0-9A-Za-z+.-]+)\s*\]", rb" \1]", rest)
    for _ in range(64):
        for pair in (rb"\([^][(){}]*\)", rb"{[^][(){}]*}", rb"\[[^][(){}]*\]"):
            rest = re.sub(pair, b"x", rest)
    return not re.search(rb"[][(){}]", rest)
