"""Check the values that a call leaves: elements, their bytes, expiry, and keys that must be absent.

What a payload of RESTORE holds is known to servers only, so it is not checked here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from keyleash.commands import CommandSpec
from keyleash.commands.keys import is_option
from keyleash.commands.work import SIZE_BY_TYPE
from keyleash.commands.writes import (
    EXPIRIES,
    EXPIRY_OPTIONS,
    FLOAT_BYTES,
    FLOAT_MORE_BYTES,
    NUMBER_BYTES,
    READ_FORMS,
    SKETCH_BYTES,
    Expiry,
    Target,
    Writes,
    written_by,
)
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import Argv, matches
from keyleash.evaluate.state import Sizes
from keyleash.evaluate.trace import ALLOWED, Decision, Trace, ValueStep, refused
from keyleash.policy import Identity

_READ_WHOLE = {
    "list": ("LRANGE", "0", "-1"),
    "set": ("SMEMBERS",),
    "hash": ("HGETALL",),
    "zset": ("ZRANGE", "0", "-1"),
    "stream": ("XRANGE", "-", "+"),
}
_HAS = {
    Writes.SET: "SISMEMBER",
    **dict.fromkeys((Writes.PAIRS, Writes.FIELDS, Writes.FIELD_NUMBER), "HEXISTS"),
    Writes.FIELD_FLOAT: "HEXISTS",
    **dict.fromkeys((Writes.SCORES, Writes.PLACES, Writes.MEMBER), "ZSCORE"),
}
_WIDTHS = {Writes.PAIRS: 2, Writes.FIELDS: 2, Writes.SCORES: 2, Writes.PLACES: 3}
_UNREAD_BYTES = 10**15


@dataclass(frozen=True, slots=True)
class _Rules:
    """The strictest rules of the grants that match a key; without a rule, infinite."""

    length: float
    elements: float
    default_ms: float
    max_ms: float
    is_absent: bool

    @classmethod
    def of(cls, identity: Identity, key: bytes) -> _Rules:
        rules = [
            grant.values
            for grant in identity.grants
            if any(matches(pattern, key) for pattern in grant.keys)
        ]
        ttls = [rule.ttl for rule in rules if rule.ttl]
        max_ms = min((ttl.max_s * 1000 for ttl in ttls if ttl.max_s), default=inf)
        default_ms = min((ttl.forced_s * 1000 for ttl in ttls), default=inf)
        return cls(
            min((rule.max_bytes for rule in rules if rule.max_bytes), default=inf),
            min((rule.max_elements for rule in rules if rule.max_elements), default=inf),
            min(default_ms, max_ms),
            max_ms,
            any(rule.only for rule in rules),
        )


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that writes, and the server with its keys."""

    identity: Identity
    how: Writes
    place: int
    target: Target
    spec: CommandSpec
    argv: Argv
    keys: Argv
    sizes: Sizes | None

    def ask(self, head: Sequence[str], keys: Argv, words: Argv = ()) -> Any:
        """Return the reply to a command that reads; None after an error, or without a server."""
        return None if self.sizes is None else self.sizes.ask(head, keys, words)

    def kind(self, key: bytes) -> str:
        """Return the type of a key; `none` if it does not exist."""
        kind = self.ask(("TYPE",), [key])
        return "none" if kind is None else str(kind, "ascii")

    def count(self, key: bytes) -> float:
        """Return the number of elements of a collection."""
        kind = self.kind(key)
        if kind in ("none", "string"):
            return 0
        return int(self.ask((SIZE_BY_TYPE[kind],), [key])) if kind in SIZE_BY_TYPE else inf

    def elements(self) -> tuple[list[bytes], list[bytes]]:
        """Return the words that name the elements which the call adds, and all that it stores."""
        at, width = self.place, _WIDTHS.get(self.how, 1)
        if self.how is Writes.FIELDS:
            at = next(
                (i for i in range(at, len(self.argv)) if is_option(self.argv[i], "FIELDS")), 0
            )
            at += 2
        elif self.how in (Writes.SCORES, Writes.PLACES):
            while at < len(self.argv) and self._is_any(at, "NX", "XX", "GT", "LT", "CH", "INCR"):
                at += 1
        elif self.how is Writes.ENTRY:
            at = self._trimming()[0] + 1
        words = [*self.argv[at:]]
        if self.how in (Writes.FIELD_NUMBER, Writes.FIELD_FLOAT) or self.spec.name == "SMOVE":
            words = words[:1]
        if self.how in (Writes.SCORES, Writes.PLACES):
            words = words[width - 1 :: width]
            return words, words
        return words[::width], words

    def _is_any(self, at: int, *options: str) -> bool:
        return any(is_option(self.argv[at], option) for option in options)

    def _trimming(self) -> tuple[int, float]:
        """Return the place of the id of an XADD, and the most entries that it leaves."""
        at, most, keeps_some = self.place, inf, False
        while at < len(self.argv):
            if self._is_any(at, "MAXLEN", "MINID"):
                is_length = self._is_any(at, "MAXLEN")
                at += 1
                sign = self.argv[at : at + 1]
                at += sign in ([b"~"], [b"="])
                number = self.argv[at] if at < len(self.argv) else b""
                most = int(number) if is_length and sign != [b"~"] and number.isdigit() else inf
                at += 1
                if at < len(self.argv) and self._is_any(at, "LIMIT"):
                    at += 2
            elif self._is_any(at, "NOMKSTREAM", "KEEPREF", "DELREF", "ACKED"):
                keeps_some |= self._is_any(at, "ACKED")
                at += 1
            else:
                break
        return at, inf if keeps_some else most

    def added(self, key: bytes) -> float:
        """Return the number of elements of *key* after the call."""
        before = self.count(key)
        if self.how in (Writes.ENTRY, Writes.VECTOR):
            return min(before + 1, self._trimming()[1] if self.how is Writes.ENTRY else inf)
        if self.how is Writes.WORDS:
            return before
        names, _ = self.elements()
        has = _HAS.get(self.how)
        if has is None:
            return before + len(names)
        only_old = self.how is Writes.SCORES and any(
            is_option(word, "XX") for word in self.argv[2:-2]
        )
        new = {name for name in names if self.ask((has,), [key], [name]) in (0, None)}
        return before + (0 if only_old else len(new))

    def numbers(self, key: bytes) -> int:
        """Return the bytes of a number that the call may leave."""
        if self.how in (Writes.NUMBER, Writes.FIELD_NUMBER):
            return NUMBER_BYTES
        if self.how is Writes.SKETCH:
            return SKETCH_BYTES
        at, head = (2, "GET") if self.how is Writes.FLOAT else (3, "HGET")
        now = self.ask((head,), [key], self.argv[2:at]) or b""
        text = self.argv[at] if at < len(self.argv) else b""
        is_plain = len(now) <= _SHORT and not {*(text + now)} - {*b"0123456789.+-"}
        return max(len(text), len(now)) + FLOAT_MORE_BYTES if is_plain else FLOAT_BYTES

    def sources(self) -> Argv:
        """Return the keys that the elements come from."""
        return self.keys[1:] if self.target is Target.FIRST else self.keys[:1]

    def result(self) -> tuple[float, Any, bool]:
        """Return the most elements that are stored, all of them, and whether patterns name some."""
        counts = [self.count(key) for key in self.sources()]
        name, words = self.spec.name, [*self.argv[2:]]
        head: tuple[str, ...] = (READ_FORMS[name],)
        gets = 0
        if self.target is Target.FIRST:
            if name.startswith("Z") and name != "ZRANGESTORE":
                head = (*head, str(words.pop(0), "latin-1"))
            words = [word for word in words[len(counts) :] if not is_option(word, "STOREDIST")]
        else:
            rest, words = words, []
            while rest:
                word = rest.pop(0)
                if is_option(word, "STORE") or is_option(word, "STOREDIST"):
                    del rest[:1]
                    continue
                words.append(word)
                if rest and (is_option(word, "BY") or is_option(word, "GET")):
                    gets += is_option(word, "GET")
                    words.append(rest.pop(0))
        most: float = sum(counts) * max(1, gets)
        if "INTER" in name:
            most = min(counts, default=0)
        elif "DIFF" in name:
            most = counts[0] if counts else 0
        return most, lambda: self.ask(head, self.sources(), words), gets > 0


_SHORT = 64


def judge_values(
    identity: Identity,
    spec: CommandSpec,
    argv: Argv,
    keys: Argv,
    sizes: Sizes | None,
    now_us: int,
    trace: Trace,
) -> Decision:
    """Deny a call that leaves a value which the grants of its key do not allow."""
    written = written_by(spec)
    if written is None or written.how is Writes.DELETED:
        return ALLOWED
    call = _Call(identity, written.how, written.place, written.target, spec, argv, keys, sizes)
    targets = {Target.FIRST: keys[:1], Target.SECOND: keys[1:2], Target.ALL: keys}
    for key in targets[written.target]:
        for rule, limit, was in _broken(call, key, _Rules.of(identity, key), now_us):
            code = ReplyCode.VALUE_TOO_LARGE if rule == "max_bytes" else ReplyCode.VALUE_REFUSED
            trace.append(ValueStep(rule, str(limit), str(was), key, code=code))
            if rule == "max_bytes":
                return refused(code, key=key, bytes=was, limit=limit)
            return refused(code, key=key, rule=rule, limit=limit, was=was)
    return ALLOWED


def _broken(
    call: _Call, key: bytes, rules: _Rules, now_us: int
) -> Iterator[tuple[str, int | str, int | str]]:
    """Yield each rule that a call breaks, its limit, and what the call would leave."""
    if rules.is_absent and call.kind(key) != "none":
        yield "only", "absent", "present"
    if rules.default_ms < inf:
        expiry_ms = _expiry(call, now_us)
        if expiry_ms == inf:
            longest_ms = rules.max_ms if rules.max_ms < inf else rules.default_ms
            yield "ttl", _whole(longest_ms), "none"
        elif expiry_ms is not None and expiry_ms > rules.max_ms:
            yield "ttl", _whole(rules.max_ms), _whole(expiry_ms)
    count, words = _left(call, key, rules)
    if count > rules.elements:
        was = "unknown" if call.how is Writes.UNKNOWN else _whole(count)
        yield "max_elements", _whole(rules.elements), was
    for length in words:
        if length > rules.length:
            yield "max_bytes", _whole(rules.length), _whole(length)


def _left(call: _Call, key: bytes, rules: _Rules) -> tuple[float, Iterator[float]]:
    """Return the number of elements that a call leaves in a key, and the bytes of new ones."""
    counts = rules.elements < inf
    match call.how:
        case Writes.NOTHING | Writes.PAYLOAD | Writes.DELETED:
            return 0, iter(())
        case Writes.UNKNOWN:
            return inf, map(len, call.argv[1:])
        case Writes.NUMBER | Writes.FLOAT | Writes.SKETCH:
            return 0, (call.numbers(key) for _ in range(1))
        case Writes.MOVED if call.keys[:1] != call.keys[1:2]:
            return call.count(key) + 1 if counts else 0, _moved(call, rules)
        case Writes.MOVED:
            return 0, iter(())
        case Writes.WHOLE:
            source = call.keys[0]
            is_copied = source != key
            return call.count(source) if is_copied else 0, _whole_of(call, source, key, rules)
        case Writes.RESULT:
            return _result(call, rules)
    lengths = [len(word) for word in call.elements()[1]]
    if call.how in (Writes.FIELD_NUMBER, Writes.FIELD_FLOAT):
        lengths.append(call.numbers(key))
    return call.added(key) if counts else 0, iter(lengths)


def _moved(call: _Call, rules: _Rules) -> Iterator[float]:
    if rules.length < _Rules.of(call.identity, call.keys[0]).length:
        is_left = call.place and is_option(call.argv[call.place], "LEFT")
        yield len(call.ask(("LINDEX",), call.keys[:1], [b"0" if is_left else b"-1"]) or b"")


def _whole_of(call: _Call, source: bytes, key: bytes, rules: _Rules) -> Iterator[float]:
    kind = call.kind(source)
    if kind == "string" and source != key:
        yield call.sizes.length(source) if call.sizes else 0
    elif (
        kind in _READ_WHOLE
        and source != key
        and (rules.length < _Rules.of(call.identity, source).length)
    ):
        head, *words = _READ_WHOLE[kind]
        yield from _lengths(call.ask((head,), [source], [word.encode() for word in words]))


def _result(call: _Call, rules: _Rules) -> tuple[float, Iterator[float]]:
    most, read, is_named = call.result()
    is_looser = (is_named and rules.length < inf) or any(
        rules.length < _Rules.of(call.identity, key).length for key in call.sources()
    )
    if most == 0 or not (most > rules.elements or is_looser):
        return most, iter(())
    found = read()
    if found is not None:
        most = len(found)
    return most, _lengths(found) if is_looser else iter(())


def _lengths(found: Any) -> Iterator[float]:
    """Yield the bytes of each text in a reply."""
    if found is None:
        yield _UNREAD_BYTES
    elif isinstance(found, bytes):
        yield len(found)
    else:
        for item in found:
            yield from _lengths(item if item is not None else b"")


def _expiry(call: _Call, now_us: int) -> float | None:
    """Return the longest expiry that a call sets, ms; infinite if it removes one, None if none."""
    how, at = EXPIRIES.get(call.spec.name, (None, 0))
    argv = call.argv
    if how is Expiry.NONE:
        return inf
    if how is Expiry.PAYLOAD:
        is_time = any(is_option(word, "ABSTTL") for word in argv[4:])
        unit = Expiry.AT_MILLISECONDS if is_time else Expiry.MILLISECONDS
        found = _milliseconds(unit, argv[at : at + 1], now_us)
        return None if argv[at : at + 1] == [b"0"] else found
    if how not in (Expiry.OPTIONS, Expiry.BEHIND_PAIRS):
        return None if how is None else _milliseconds(how, argv[at : at + 1], now_us)
    at += 2 * len(call.keys) if how is Expiry.BEHIND_PAIRS else 0
    longest = None
    while at < len(argv):
        if is_option(argv[at], "PERSIST"):
            return inf
        named = (unit for word, unit in EXPIRY_OPTIONS.items() if is_option(argv[at], word))
        option = next(named, None)
        if option is not None:
            at += 1
            found = _milliseconds(option, argv[at : at + 1], now_us)
            longest = max((item for item in (longest, found) if item is not None), default=None)
        at += 1
    return longest


def _milliseconds(unit: Expiry, words: Argv, now_us: int) -> float | None:
    try:
        number = float(int(words[0])) if words else None
    except ValueError:
        return None
    if number is None:
        return None
    if unit in (Expiry.SECONDS, Expiry.AT_SECONDS):
        number *= 1000
    is_time = unit in (Expiry.AT_SECONDS, Expiry.AT_MILLISECONDS)
    return number - now_us / 1000 if is_time else number


def _whole(number: float) -> int:
    return int(min(number, _UNREAD_BYTES)) if number == inf else round(min(number, _UNREAD_BYTES))
