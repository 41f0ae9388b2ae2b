"""Decide whether a call may use its search index, whose documents it does not name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import ceil, inf
from typing import Any, NamedTuple

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.facts import INDEX_OPTIONS, LISTS_INDEXES
from keyleash.commands.refusals import why_option
from keyleash.commands.work import (
    DOCUMENT_WORK,
    HIT_WORK,
    MAX_EXPANDED_TERMS,
    MAX_EXPRESSION_BYTES,
    MAX_INKEYS,
    MAX_NEIGHBOURS,
    MAX_QUERY_BYTES,
    MAX_SEARCH_STEPS,
    MOST_DIMENSIONS,
    MOST_OF_VECTORS,
    SEARCH_WORK,
)
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import CONTROL, Argv, RuledCommand, grants_of_keys_from, matches
from keyleash.evaluate.restricted import refused_by_token
from keyleash.evaluate.state import ModelState, Sizes
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
from keyleash.policy import Grant, Identity
from keyleash.policy.patterns import beginning, bound_pattern, is_open, may_start_with
from keyleash.store.live_table import reply_mapping
from keyleash.store.restrictions import Restrictions

_VECTORS = (b"BLOCK_SIZE", b"M", b"EF_CONSTRUCTION", b"EF_RUNTIME")


class Option(NamedTuple):
    """An option of a call, and the words after it."""

    name: str
    words: Sequence[bytes]


def judge_index(
    identity: Identity,
    command: RuledCommand,
    spec: CommandSpec,
    argv: Argv,
    state: ModelState,
    trace: Trace,
) -> Decision:
    """Check the name of the index, and that the caller may read all keys with its prefixes."""
    restrictions, cls = state.restrictions, spec.index
    if cls is None:
        return ALLOWED
    if restrictions is not None and cls not in restrictions.allow:
        code = ReplyCode.CLASS_NOT_GRANTED
        return refused_by_token(trace, code, class_=cls, command=command.name)
    if spec.name == LISTS_INDEXES or len(argv) < 2:
        return ALLOWED
    verdict = _judge_name(command, cls, argv[1], restrictions, trace)
    if not verdict.allowed:
        return verdict
    options = _options(spec.name, argv)
    if isinstance(options, bytes):
        return _refused_word(command, options, trace)
    broken = _too_many_dimensions(spec.name, argv)
    if broken is not None:
        return _refused_word(command, broken, trace)
    info = _asked(argv[1], state.sizes) if spec.name != "FT.CREATE" else None
    prefixes = _stored(info) if spec.name != "FT.CREATE" else _created(options)
    if any(b"\0" in prefix for prefix in prefixes):
        return _refused_word(command, b"PREFIX", trace)
    deletes = spec.name == "FT.DROPINDEX" and len(argv) > 2
    for prefix in prefixes:
        verdict = _judge_prefix(identity, spec, prefix, deletes, restrictions, trace)
        if not verdict.allowed:
            return verdict
    documents = int((info or {}).get("num_docs", 0))
    if spec.name not in ("FT.SEARCH", "FT.AGGREGATE"):
        return _judge_work(identity, spec, documents * DOCUMENT_WORK if deletes else 0, trace)
    broken = _broken_bound(argv[2] if len(argv) > 2 else b"", options)
    if broken is not None:
        return _refused_word(command, broken, trace)
    return _judge_work(identity, spec, _cost(identity, argv, options, documents, state), trace)


def _judge_name(
    command: RuledCommand,
    cls: OperationClass,
    name: bytes,
    restrictions: Restrictions | None,
    trace: Trace,
) -> Decision:
    giving = [grant for grant in command.grants if cls in grant.allow]
    found = [(grant, item) for grant in giving for item in grant.indexes if matches(item, name)]
    granted = tuple(Match(*item) for item in found) if b"\0" not in name else ()
    verdict = ALLOWED if granted else refused(ReplyCode.INDEX_NOT_GRANTED, index=name)
    trace.append(ArgumentStep(Aspect.INDEX, name, granted, code=verdict.code))
    if verdict.allowed and restrictions is not None:
        bound = (bound_pattern(item, restrictions.bind) for _, item in found)
        if not any(item is not None and matches(item, name) for item in bound):
            return refused_by_token(trace, ReplyCode.INDEX_NOT_GRANTED, index=name)
    return verdict


def _refused_word(command: RuledCommand, word: bytes, trace: Trace) -> Decision:
    why = why_option(word.decode("latin-1"))
    trace.append(ArgumentStep(Aspect.OPTION, word, why=why, code=ReplyCode.COMMAND_REFUSED))
    return refused(ReplyCode.COMMAND_REFUSED, command=command.name + b" " + word)


def _options(name: str, argv: Argv) -> Sequence[Option] | bytes:
    """Return the options of a call, or the word for which it is denied."""
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
            return argv[at]
        options.append(Option(word, argv[at + 1 : at + 1 + width]))
        at += width + 1
    return options


def _too_many_dimensions(name: str, argv: Argv) -> bytes | None:
    """Return the word for which the vectors of a new index are too large, or None."""
    dimensions, broken = 0.0, None
    for word, text in pairwise(argv[2:] if name in ("FT.CREATE", "FT.ALTER") else ()):
        number = _number(text, 0)
        dimensions += max(number, 0) if word.upper() == b"DIM" else 0
        large = number > MOST_OF_VECTORS and word.upper() in _VECTORS
        broken = word.upper()[:32] if large or dimensions > MOST_DIMENSIONS else broken
    return broken


def _created(options: Sequence[Option]) -> Sequence[bytes]:
    """Return the prefixes of an FT.CREATE."""
    prefixes = [prefix for name, words in options if name == "PREFIX" for prefix in words[1:]]
    is_open = not prefixes or Option("PREFIX", [b"0"]) in options
    return [*prefixes, b""] if is_open else prefixes


def _stored(info: Mapping[str, Any] | None) -> Sequence[bytes]:
    """Return the prefixes in the reply to FT.INFO; none if there is no such index."""
    if info is None:
        return ()
    return reply_mapping(info.get("index_definition", ())).get("prefixes") or [b""]


def _asked(name: bytes, sizes: Sizes | None) -> Mapping[str, Any] | None:
    """Return the reply to FT.INFO; None if there is no such index, or no server to ask."""
    reply = None if sizes is None else sizes.ask(("FT.INFO",), [name], ())
    return None if reply is None else reply_mapping(reply)


def _number(text: bytes, otherwise: float) -> float:
    try:
        return float(text)
    except ValueError:
        return otherwise


def _broken_bound(query: bytes, options: Sequence[Option]) -> bytes | None:
    """Return the name of the last bound that a search breaks, or None."""
    steps = [words[0] for name, words in options if name in ("APPLY", "FILTER", "GROUPBY")]
    formats = sum(step.lower().count(b"format") for step in steps)
    terms = query.count(b"*") + query.count(b"%") / 2 + query.lower().count(b"w'")
    params: dict[bytes, bytes] = {}
    for name, words in options:
        params |= dict(zip(words[1::2], words[2::2], strict=True)) if name == "PARAMS" else {}
    found = re.findall(rb"(?i)KNN\s*([^\s\]@]*)", query)
    nearest = [params.get(near[1:], near) if near[:1] == b"$" else near for near in found]
    if any(_number(near, 0) > MAX_NEIGHBOURS for near in nearest):
        return b"KNN"
    is_long = any(len(step) > MAX_EXPRESSION_BYTES for step in steps)
    if is_long or len(steps) > MAX_SEARCH_STEPS or formats > 1:
        return b"STEPS"
    if any(len(words) > MAX_INKEYS + 1 for name, words in options if name == "INKEYS"):
        return b"INKEYS"
    if len(query) > MAX_QUERY_BYTES:
        return b"QUERY"
    return b"TERMS" if terms > MAX_EXPANDED_TERMS else None


def _cost(
    identity: Identity, argv: Argv, options: Sequence[Option], documents: int, state: ModelState
) -> float:
    """Return the work of the documents that a search returns."""
    is_search = argv[0] == b"FT.SEARCH"
    unit = DOCUMENT_WORK if is_search else HIT_WORK
    first, rows = 0.0, 10.0 if is_search else documents
    for name, words in options:
        if name == "LIMIT":
            first, rows = (_number(word, inf) for word in words)
        elif name == "LOAD":
            unit = DOCUMENT_WORK
        elif name == "NOCONTENT" or (name, *words) == ("RETURN", b"0"):
            unit = HIT_WORK

    def estimated(documents: float) -> float:
        return min(first, documents) * HIT_WORK + min(rows, max(documents - first, 0)) * unit

    cost = estimated(documents)
    if is_search and cost > identity.work and state.sizes is not None:
        reply = state.sizes.ask(("FT.SEARCH",), [argv[1]], _counting(argv, options))
        cost = estimated(reply[0] if reply else 0)
    return cost


def _counting(argv: Argv, options: Sequence[Option]) -> Argv:
    """Return the words of a search that counts its documents, after the index."""
    words = [argv[2]]
    for name, values in options:
        words += [name.encode(), *([b"0", b"0"] if name == "LIMIT" else values)]
    return words


def _judge_work(identity: Identity, spec: CommandSpec, cost: float, trace: Trace) -> Decision:
    work = SEARCH_WORK + cost
    if work <= identity.work:
        return ALLOWED
    code, amount = ReplyCode.WORK_TOO_LARGE, ceil(min(work, 10**15))
    trace.append(SizeStep("work", work, identity.work, code=code))
    return refused(code, command=spec.name, work=amount, limit=identity.work)


def _judge_prefix(
    identity: Identity,
    spec: CommandSpec,
    prefix: bytes,
    deletes: bool,
    restrictions: Restrictions | None,
    trace: Trace,
) -> Decision:
    admitting = [grant for grant in identity.grants if grant.admits(spec)]
    needed = (OperationClass.READ, *([OperationClass.DELETE] if deletes else ()))
    by_class = [tuple(grants_of_keys_from(admitting, prefix, cls)) for cls in needed]
    verdict, shown = ALLOWED, prefix + b"*"
    if not all(by_class):
        verdict = refused(ReplyCode.KEY_NOT_GRANTED, key=shown)
    elif any(_begin_alike(start, prefix) for start in _excluded(identity)):
        verdict = refused(ReplyCode.KEY_DENIED, key=shown)
    trace.append(ArgumentStep(Aspect.PREFIX, shown, by_class[-1], code=verdict.code))
    if verdict.allowed and restrictions is not None:
        keys = restrictions.keys
        is_within = keys is None or any(
            is_open(key) and prefix.startswith(beginning(key)) for key in keys
        )
        if not is_within or not all(_is_bound(item, restrictions, prefix) for item in by_class):
            return refused_by_token(trace, ReplyCode.KEY_NOT_GRANTED, key=shown)
    return verdict


def _is_bound(granted: Sequence[Match[Grant]], restrictions: Restrictions, prefix: bytes) -> bool:
    bound = (bound_pattern(item.pattern, restrictions.bind) for item in granted)
    return any(item is not None and matches(item, prefix) for item in bound)


def _excluded(identity: Identity) -> Iterator[bytes]:
    """Yield the literal beginnings of denied patterns, and of control keys if a grant has some."""
    granted = (key for grant in identity.grants for key in grant.keys)
    if any(may_start_with(key, CONTROL) for key in granted):
        yield CONTROL
    yield from (beginning(key) for deny in identity.deny for key in deny.keys)


def _begin_alike(first: bytes, second: bytes) -> bool:
    """Return whether one text begins with the other."""
    return first.startswith(second) or second.startswith(first)
