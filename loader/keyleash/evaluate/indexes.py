"""Decide whether a call may use its search index, whose documents it does not name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, inf
from typing import Any

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.facts import INDEX_OPTIONS, LISTS_INDEXES
from keyleash.commands.refusals import why_argument
from keyleash.commands.work import (
    DOCUMENT_WORK,
    HIT_WORK,
    MAX_EXPANDED_TERMS,
    MAX_EXPRESSION_BYTES,
    MAX_INKEYS,
    MAX_NEIGHBOURS,
    MAX_QUERY_BYTES,
    MAX_RETURNED,
    MAX_SEARCH_STEPS,
    MOST_DIMENSIONS,
    MOST_OF_VECTORS,
    SEARCH_WORK,
    SUMMARY_WORK,
)
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import CONTROL, Argv, RuledCommand, grants_of_keys_from, matches
from keyleash.evaluate.restricted import refused_by_token
from keyleash.evaluate.state import ModelState
from keyleash.evaluate.trace import (
    ALLOWED,
    ArgumentStep,
    Aspect,
    Decision,
    Match,
    SizeStep,
    Trace,
    refused,
)
from keyleash.policy import Grant, Identity, Pattern
from keyleash.policy.model import capture_in
from keyleash.policy.patterns import beginning, bound_pattern, is_open, may_start_with
from keyleash.store.live_table import reply_mapping

_VECTORS = (b"BLOCK_SIZE", b"M", b"EF_CONSTRUCTION", b"EF_RUNTIME")
_STEPS = ("APPLY", "FILTER", "GROUPBY", "REDUCE")
NOT_LOOKED_UP = "its prefixes were not checked"
_OF_SCORES = ("WITHSCORES", "EXPLAINSCORE", "ADDSCORES")


Option = tuple[str, Sequence[bytes]]
"""An option of a call, and the words after it."""


@dataclass(frozen=True, slots=True)
class IndexCall:
    """A call that may name a search index: the caller may read all keys with its prefixes."""

    identity: Identity
    command: RuledCommand
    spec: CommandSpec
    argv: Argv
    state: ModelState
    trace: Trace

    def checks(self) -> Iterator[Decision]:
        """Yield the verdict of each check; the caller stops at the first denial."""
        cls, name, limits = self.spec.index, self.spec.name, self.state.restrictions
        if cls is None:
            return
        if limits is not None and cls not in limits.allow:
            yield refused_by_token(
                self.trace, ReplyCode.CLASS_NOT_GRANTED, class_=cls, command=self.command.name
            )
        if name == LISTS_INDEXES or len(self.argv) < 2:
            return
        giving = [grant for grant in self.command.grants if cls in grant.allow]
        named = [
            Match(grant, item)
            for grant in giving
            for item in grant.indexes
            if matches(item, self.argv[1]) and (cls is OperationClass.READ or not item.where)
        ]
        yield self.index(named)
        (options, broken), creates = _options(name, self.argv), name == "FT.CREATE"
        prefixes, wrong = _created(options) if creates else ((), None)
        for word in (broken, _large_vectors(name, self.argv), wrong):
            yield self.refused_word(word)
        reply = None if creates else self.ask("FT.INFO")
        info = None if reply is None else reply_mapping(reply)
        if info is not None:
            prefixes = reply_mapping(info.get("index_definition", ())).get("prefixes") or [b""]
        elif not creates:
            where = "does not exist on this server" if self.state.sizes else "no server was asked"
            why = f"{where}; {NOT_LOOKED_UP}"
            self.trace.append(ArgumentStep(Aspect.INDEX, self.argv[1], why=why))
        filtered = self.filter(named)
        for prefix in prefixes:
            yield self.prefix(prefix, is_filtered=filtered is not None)
        documents = int((info or {}).get("num_docs", 0))
        if name in ("FT.SEARCH", "FT.AGGREGATE"):
            yield from self.search(options, filtered, info, documents)
        else:
            deletes = name == "FT.DROPINDEX" and len(self.argv) > 2
            yield self.work(documents * DOCUMENT_WORK if deletes else 0)

    def ask(self, name: str, *words: bytes) -> Any:
        """Return the reply to a command that reads the index; None without one, or a server."""
        sizes = self.state.sizes
        return None if sizes is None else sizes.ask((name,), self.argv[1:2], words)

    def refused_word(self, word: bytes | None) -> Decision:
        if word is None:
            return ALLOWED
        why = why_argument(self.spec, word.decode("latin-1"))
        step = ArgumentStep(Aspect.OPTION, word, why=why, code=ReplyCode.COMMAND_REFUSED)
        self.trace.append(step)
        return refused(ReplyCode.COMMAND_REFUSED, command=self.command.name + b" " + word)

    def is_bound(self, pattern: Pattern, text: bytes) -> bool:
        """Return whether *text* matches a pattern with the values of the token's bindings."""
        limits = self.state.restrictions
        bound = pattern if limits is None else bound_pattern(pattern, limits.bind)
        return bound is not None and matches(bound, text)

    def index(self, named: Sequence[Match[Grant]]) -> Decision:
        name = self.argv[1]
        code = None if named and b"\0" not in name else ReplyCode.INDEX_NOT_GRANTED
        self.trace.append(ArgumentStep(Aspect.INDEX, name, tuple(named), code=code))
        if code is not None:
            return refused(code, index=name)
        if not any(self.is_bound(item.pattern, name) for item in named):
            return refused_by_token(self.trace, ReplyCode.INDEX_NOT_GRANTED, index=name)
        return ALLOWED

    def filter(self, named: Sequence[Match[Grant]]) -> Mapping[str, bytes] | None:
        """Return the fields and values that the policy forces on a search; None for no filter."""
        limits = self.state.restrictions
        bind = limits.bind if limits else {}
        own = [item.pattern for item in named if self.is_bound(item.pattern, self.argv[1])]
        if any(not pattern.where for pattern in own):
            return None
        return {
            field: bind.get(capture_in(value), b"") if capture_in(value) else value.encode()
            for pattern in own[:1]
            for field, value in pattern.where
        }

    def prefix(self, prefix: bytes, *, is_filtered: bool) -> Decision:
        admitting = [grant for grant in self.identity.grants if grant.admits(self.spec)]
        deletes = self.spec.name == "FT.DROPINDEX" and len(self.argv) > 2
        needed = (OperationClass.READ, *([OperationClass.DELETE] if deletes else ()))
        limits, shown = self.state.restrictions, prefix + b"*"
        granted: tuple[Match[Grant], ...] = ()
        for cls in () if is_filtered else needed:
            granted = tuple(grants_of_keys_from(admitting, prefix, cls))
            if not granted:
                code = ReplyCode.KEY_NOT_GRANTED
                self.trace.append(ArgumentStep(Aspect.PREFIX, shown, code=code))
                return refused(code, key=shown)
            if not any(self.is_bound(item.pattern, prefix) for item in granted):
                return refused_by_token(self.trace, ReplyCode.KEY_NOT_GRANTED, key=shown)
        keys = limits.keys if limits else None
        if keys is not None and not any(
            is_open(key) and prefix.startswith(beginning(key)) for key in keys
        ):
            return refused_by_token(self.trace, ReplyCode.KEY_NOT_GRANTED, key=shown)
        starts = _excluded(self.identity)
        is_denied = any(start.startswith(prefix) or prefix.startswith(start) for start in starts)
        verdict = refused(ReplyCode.KEY_DENIED, key=shown) if is_denied else ALLOWED
        self.trace.append(ArgumentStep(Aspect.PREFIX, shown, granted, code=verdict.code))
        return verdict

    def search(
        self,
        options: Sequence[Option],
        filtered: Mapping[str, bytes] | None,
        info: Mapping[str, Any] | None,
        documents: float,
    ) -> Iterator[Decision]:
        """Yield the verdicts on the query, its filter and its work."""
        query, forced = self.argv[2] if len(self.argv) > 2 else b"", list[bytes]()
        is_long = len(query) > MAX_QUERY_BYTES
        query = b"*" if is_long else query
        is_filtered = filtered is not None
        broken = _broken_bound(query, options, is_filtered=is_filtered, is_long=is_long)
        if filtered:
            documents, wraps = inf, list[bytes]()
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
                inner, near = _split(query)
                is_all = inner.strip() == b"*"
                if not (is_all or _is_enclosed(inner)) and broken in (None, b"TERMS"):
                    broken = b"BRACKETS"
                wraps += [] if is_all else [b"(%s)" % inner]
                query = b"(%s)%s" % (b" ".join(wraps), near)
            forced += [b"DIALECT", b"2"]
        yield self.refused_word(broken)
        yield self.work(self.cost(query, forced, options, documents))

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

    def cost(
        self, query: bytes, forced: Sequence[bytes], options: Sequence[Option], documents: float
    ) -> float:
        """Return the work of the documents that a search returns."""
        is_search = self.spec.name == "FT.SEARCH"
        unit = DOCUMENT_WORK if is_search else HIT_WORK
        first, rows = 0.0, 10.0 if is_search else documents
        counting = [query, *forced]
        for name, words in options:
            counting += [name.encode(), *([b"0", b"0"] if name == "LIMIT" else words)]
            if name == "LIMIT":
                first, rows = (_number(word, inf) for word in words)
            elif name in ("LOAD", "SUMMARIZE"):
                unit = DOCUMENT_WORK if name == "LOAD" else SUMMARY_WORK
            elif name == "NOCONTENT" or (name, *words) == ("RETURN", b"0"):
                unit = HIT_WORK

        def estimated(documents: float) -> float:
            return min(first, documents) * HIT_WORK + min(rows, max(documents - first, 0)) * unit

        cost = estimated(documents)
        if is_search and cost > self.identity.work:
            reply = self.ask("FT.SEARCH", *counting)
            cost = estimated(reply[0] if reply else 0)
        return cost

    def work(self, cost: float) -> Decision:
        work, most, code = SEARCH_WORK + cost, self.identity.work, ReplyCode.WORK_TOO_LARGE
        if work <= most:
            return ALLOWED
        self.trace.append(SizeStep("work", work, most, code=code))
        return refused(code, command=self.spec.name, work=ceil(min(work, 10**15)), limit=most)


def _options(name: str, argv: Argv) -> tuple[Sequence[Option], bytes | None]:
    """Return the options of a call, and the word for which it is denied, or None."""
    widths = dict(item.split("=") for item in INDEX_OPTIONS.get(name, "").split())
    options: list[Option] = []
    at = 2 if name == "FT.CREATE" else 3
    while widths and at < len(argv) and (word := argv[at].decode("latin-1").upper()) != "SCHEMA":
        kind = widths.get(word, "")
        width = int(kind) if kind.isdigit() else None
        if kind in ("n", "r", "*"):
            place = at + 2 if kind == "r" else at + 1
            text = argv[place] if place < len(argv) else b""
            if kind == "*" and text == b"*":
                width = 1
            elif re.fullmatch(rb"[0-9]{1,4}", text):
                width = place - at + int(text)
        if width is None or at + width >= len(argv):
            return options, argv[at]
        options.append((word, argv[at + 1 : at + 1 + width]))
        at += width + 1
    return options, None


def _created(options: Sequence[Option]) -> tuple[Sequence[bytes], bytes | None]:
    """Return the prefixes of an FT.CREATE, and the last option for which it is denied."""
    prefixes, broken = list[bytes](), None
    for name, words in options:
        if name == "PREFIX":
            prefixes += words[1:] or [b""]
            broken = b"PREFIX" if any(b"\0" in word for word in words[1:]) else broken
        elif name == "FILTER" and (
            len(words[0]) > MAX_EXPRESSION_BYTES or words[0].lower().count(b"format") > 1
        ):
            broken = b"STEPS"
    return prefixes or [b""], broken


def _excluded(identity: Identity) -> Iterator[bytes]:
    """Yield the literal beginnings of denied patterns, and of control keys if a grant has some."""
    granted = (key for grant in identity.grants for key in grant.keys)
    if any(may_start_with(key, CONTROL) for key in granted) or identity.filters_indexes:
        yield CONTROL
    yield from (beginning(key) for deny in identity.deny for key in deny.keys)


def _large_vectors(name: str, argv: Argv) -> bytes | None:
    """Return the word for which the vectors of an index are too large, or None."""
    dimensions, broken, is_schema = 0.0, None, False
    words = argv[2:] if name in ("FT.CREATE", "FT.ALTER") else ()
    for word, text in pairwise([*words, b""]):
        digits = re.match(rb"-?[0-9]+", text)
        number, upper = float(digits[0]) if digits else 0, word.upper()[:32]
        is_schema |= upper == b"SCHEMA"
        is_path = is_schema and word[:1] == b"$"
        broken = b"FIELDS" if is_path and _selects_many(word) else broken
        dimensions += max(number, 0) if upper == b"DIM" else 0
        is_large = upper == b"DIM" and dimensions > MOST_DIMENSIONS
        is_large |= upper in _VECTORS and number > MOST_OF_VECTORS
        broken = upper if is_large or upper == b"WITHSUFFIXTRIE" else broken
    return broken


def _selects_many(path: bytes) -> bool:
    return re.match(rb"(?s)@?\$.*(\?|,|\.\.)", path) is not None


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
    formats = sum(step.lower().count(b"format") for step in steps)
    terms = query.count(b"*") + query.count(b"%") / 2 + query.lower().count(b"w'")
    params: dict[bytes, bytes] = {}
    for name, words in options:
        params |= dict(zip(words[1::2], words[2::2], strict=False)) if name == "PARAMS" else {}
    skipped = rb"[^A-Za-z0-9@$]*"
    found = re.findall(rb"\[" + skipped + rb"(?i:KNN)" + skipped + rb"(\$?\w*)", query)
    nearest = [params.get(near[1:], near) if near[:1] == b"$" else near for near in found]
    if not all(near.isdigit() and int(near) <= MAX_NEIGHBOURS for near in nearest):
        return b"KNN"
    is_large = any(len(step) > MAX_EXPRESSION_BYTES for step in steps)
    is_large |= not all(_number(sample, inf) <= MAX_INKEYS for sample in samples)
    if is_large or len(steps) > MAX_SEARCH_STEPS or formats > 1:
        return b"STEPS"
    broken = b"QUERY" if is_long else None
    for name, words in options:
        is_listed = name in ("RETURN", "LOAD")
        if is_listed and (len(words) > MAX_RETURNED + 1 or any(map(_selects_many, words))):
            broken = b"FIELDS"
        elif (
            (name in ("INKEYS", "FRAGS", "LEN") and not _number(words[0], inf) <= MAX_INKEYS)
            or (is_filtered and name in _OF_SCORES)
            or (name in ("HIGHLIGHT", "SUMMARIZE") and b"knn" in query.lower())
            or (name == "DIALECT" and words[0] not in (b"1", b"2", b"3"))
        ):
            broken = name.encode()
    if broken is not None:
        return broken
    return b"TERMS" if terms > MAX_EXPANDED_TERMS else None


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
