"""Check the values that a call leaves: elements, their bytes, expiry, and keys that must be absent.

What a payload of RESTORE holds is known to servers only, so it is not checked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

from keyleash.commands import CommandSpec, writes
from keyleash.commands.keys import is_option
from keyleash.commands.work import SIZE_BY_TYPE
from keyleash.commands.writes import Expiry, Target, Writes, Written, written_by
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import Argv, matches
from keyleash.evaluate.trace import ALLOWED, Decision, Trace, ValueStep, refused
from keyleash.policy import Identity

if TYPE_CHECKING:
    from proofs.oracle.data import Sizes

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
    written: Written
    spec: CommandSpec
    argv: Argv
    keys: Argv
    sizes: Sizes | None

    def ask(self, head: Sequence[str], keys: Argv, words: Argv = ()) -> Any:
        """Return the reply to a command that reads; None after an error, or without a server."""
        return None if self.sizes is None else self.sizes.ask(head, keys, words)

    def type_of(self, key: bytes) -> str:
        """Return the type of a key; `none` if it does not exist."""
        return str(self.ask(("TYPE",), [key]) or b"none", "ascii")

    def count(self, key: bytes) -> float:
        """Return the number of elements of a collection; infinite if it is not known."""
        kind = self.type_of(key)
        if kind in ("none", "string"):
            return 0
        return int(self.ask((SIZE_BY_TYPE[kind],), [key])) if kind in SIZE_BY_TYPE else inf

    def count_after(self, key: bytes) -> float:
        """Return the number of elements that the call leaves in *key*."""
        before, how = self.count(key), self.written.how
        if how is Writes.WORDS:
            return before
        if how in (Writes.ENTRY, Writes.VECTOR):
            return min(before + 1, self._trimming()[1] if how is Writes.ENTRY else inf)
        if how is Writes.SCORES and any(is_option(word, "XX") for word in self.argv[2:-2]):
            return before
        names, _ = self.elements()
        if how in _HAS:
            names = [name for name in {*names} if not self.ask((_HAS[how],), [key], [name])]
        return before + len(names)

    def elements(self) -> tuple[list[bytes], list[bytes]]:
        """Return the names of the elements that the call adds, and all words that it stores."""
        at, how = self.written.place, self.written.how
        width = _WIDTHS.get(how, 1)
        if how is Writes.FIELDS:
            places = (i for i in range(at, len(self.argv)) if self._is_any(i, "FIELDS"))
            at = 2 + next(places, 0)
        elif how is Writes.ENTRY:
            at = self._trimming()[0] + 1
        elif how in (Writes.SCORES, Writes.PLACES):
            while at < len(self.argv) and self._is_any(at, "NX", "XX", "GT", "LT", "CH", "INCR"):
                at += 1
            members = [*self.argv[at + width - 1 :: width]]
            return members, members
        words = [*self.argv[at:]]
        if how in (Writes.FIELD_NUMBER, Writes.FIELD_FLOAT) or self.spec.name == "SMOVE":
            words = words[:1]
        return words[::width], words

    def _is_any(self, at: int, *options: str) -> bool:
        return any(is_option(self.argv[at], option) for option in options)

    def _trimming(self) -> tuple[int, float]:
        """Return the place of the id of an XADD, and the most entries that it leaves."""
        at, most, keeps_some = self.written.place, inf, False
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

    def number_bytes(self, key: bytes) -> int:
        """Return the longest text of the number that the call leaves."""
        how = self.written.how
        if how in (Writes.NUMBER, Writes.FIELD_NUMBER):
            return writes.NUMBER_BYTES
        if how is Writes.SKETCH:
            return writes.SKETCH_BYTES
        at, reads = (2, "GET") if how is Writes.FLOAT else (3, "HGET")
        present = self.ask((reads,), [key], self.argv[2:at]) or b""
        added = self.argv[at] if at < len(self.argv) else b""
        is_plain = len(present) <= _SHORT and not {*(added + present)} - {*b"0123456789.+-"}
        return (
            max(len(added), len(present)) + writes.FLOAT_MORE_BYTES
            if is_plain
            else writes.FLOAT_BYTES
        )

    def sources(self) -> Argv:
        """Return the keys that the elements come from."""
        return self.keys[1:] if self.written.target is Target.FIRST else self.keys[:1]

    def result_count(self, gets: int) -> float:
        """Return the most elements of the result that a call stores, which has *gets* for each."""
        counts, name = [self.count(key) for key in self.sources()], self.spec.name
        if "INTER" in name:
            return min(counts, default=0)
        if "DIFF" in name:
            return counts[0] if counts else 0
        return sum(counts) * max(1, gets)

    def result_query(self) -> tuple[list[str], list[bytes], int]:
        """Return the command that reads the result: words before and after keys, and its GETs."""
        name, rest = self.spec.name, [*self.argv[2:]]
        head = [writes.READ_FORMS[name]]
        if self.written.target is Target.FIRST:
            if name.startswith("Z") and name != "ZRANGESTORE":
                head.append(str(rest.pop(0), "latin-1"))
            rest = rest[len(self.sources()) :]
            return head, [word for word in rest if not is_option(word, "STOREDIST")], 0
        words, gets = list[bytes](), 0
        while rest:
            word = rest.pop(0)
            if is_option(word, "STORE") or is_option(word, "STOREDIST"):
                del rest[:1]
                continue
            words.append(word)
            if rest and (is_option(word, "BY") or is_option(word, "GET")):
                gets += is_option(word, "GET")
                words.append(rest.pop(0))
        return head, words, gets


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
    call = _Call(identity, written, spec, argv, keys, sizes)
    targets = {Target.FIRST: keys[:1], Target.SECOND: keys[1:2], Target.ALL: keys}
    for key in targets[written.target]:
        for rule, limit, was in _broken_rules(call, key, _Rules.of(identity, key), now_us):
            code = ReplyCode.VALUE_TOO_LARGE if rule == "max_bytes" else ReplyCode.VALUE_REFUSED
            trace.append(ValueStep(rule, str(limit), str(was), key, code=code))
            if rule == "max_bytes":
                return refused(code, key=key, bytes=was, limit=limit)
            return refused(code, key=key, rule=rule, limit=limit, was=was)
    return ALLOWED


def _broken_rules(
    call: _Call, key: bytes, rules: _Rules, now_us: int
) -> Iterator[tuple[str, int | str, int | str]]:
    """Yield each rule that a call breaks, its limit, and what the call would leave."""
    if rules.is_absent and call.type_of(key) != "none":
        yield "only", "absent", "present"
    if rules.default_ms < inf:
        expiry_ms = _expiry_ms(call, now_us)
        if expiry_ms == inf:
            longest_ms = rules.max_ms if rules.max_ms < inf else rules.default_ms
            yield "ttl", _rounded(longest_ms), "none"
        elif expiry_ms is not None and expiry_ms > rules.max_ms:
            yield "ttl", _rounded(rules.max_ms), _rounded(expiry_ms)
    count, lengths = _contents_after(call, key, rules)
    if count > rules.elements:
        was = "unknown" if call.written.how is Writes.UNKNOWN else _rounded(count)
        yield "max_elements", _rounded(rules.elements), was
    for length in lengths:
        if length > rules.length:
            yield "max_bytes", _rounded(rules.length), _rounded(length)


def _contents_after(call: _Call, key: bytes, rules: _Rules) -> tuple[float, Iterable[float]]:
    """Return the number of elements that a call leaves in a key, and the bytes of new ones."""
    how, counts, source = call.written.how, rules.elements < inf, call.keys[0]
    match how:
        case Writes.NOTHING | Writes.PAYLOAD:
            return 0, ()
        case Writes.UNKNOWN:
            return inf, map(len, call.argv[1:])
        case Writes.NUMBER | Writes.FLOAT | Writes.SKETCH:
            return 0, [call.number_bytes(key)]
        case Writes.MOVED | Writes.WHOLE if call.keys[:1] == call.keys[1:2]:
            return 0, ()
        case Writes.MOVED:
            return call.count(key) + 1 if counts else 0, _moved_bytes(call, source, rules)
        case Writes.WHOLE:
            return call.count(source), _copied_bytes(call, source, rules)
        case Writes.RESULT:
            return _result(call, rules)
    lengths = [len(word) for word in call.elements()[1]]
    if how in (Writes.FIELD_NUMBER, Writes.FIELD_FLOAT):
        lengths.append(call.number_bytes(key))
    return call.count_after(key) if counts else 0, lengths


def _is_stricter(call: _Call, rules: _Rules, source: bytes) -> bool:
    """Return whether *source* may hold longer elements than *rules* allow."""
    return rules.length < _Rules.of(call.identity, source).length


def _moved_bytes(call: _Call, source: bytes, rules: _Rules) -> Iterator[float]:
    """Yield the bytes of the element that a call moves from another list."""
    if _is_stricter(call, rules, source):
        place = call.written.place
        end = b"0" if place and is_option(call.argv[place], "LEFT") else b"-1"
        yield len(call.ask(("LINDEX",), [source], [end]) or b"")


def _copied_bytes(call: _Call, source: bytes, rules: _Rules) -> Iterator[float]:
    """Yield the bytes of each element of the key that a call copies or renames."""
    kind = call.type_of(source)
    if kind == "string":
        yield call.sizes.length(source) if call.sizes else 0
    elif kind in _READ_WHOLE and _is_stricter(call, rules, source):
        head, *words = _READ_WHOLE[kind]
        yield from _text_bytes(call.ask((head,), [source], [word.encode() for word in words]))


def _result(call: _Call, rules: _Rules) -> tuple[float, Iterable[float]]:
    """Return the number of elements of the result that a call stores, and their bytes."""
    head, words, gets = call.result_query()
    count = call.result_count(gets)
    # A GET of SORT returns elements of further keys.
    checks_bytes = (gets > 0 and rules.length < inf) or any(
        _is_stricter(call, rules, key) for key in call.sources()
    )
    if count == 0 or not (count > rules.elements or checks_bytes):
        # The sizes of the sources show that the result keeps every rule.
        return count, ()
    reply = call.ask(head, call.sources(), words)
    return count if reply is None else len(reply), _text_bytes(reply) if checks_bytes else ()


def _text_bytes(reply: Any) -> Iterator[float]:
    """Yield the bytes of each text in a reply."""
    if reply is None:
        yield _UNREAD_BYTES
    elif isinstance(reply, bytes):
        yield len(reply)
    else:
        for item in reply:
            yield from _text_bytes(item if item is not None else b"")


def _expiry_ms(call: _Call, now_us: int) -> float | None:
    """Return the longest expiry that a call sets, ms; infinite if it removes one, None if none."""
    how, at = writes.EXPIRIES.get(call.spec.name, (None, 0))
    argv = call.argv
    if how is None:
        return None
    if how is Expiry.NONE:
        return inf
    if how is Expiry.PAYLOAD:
        if argv[at : at + 1] == [b"0"]:
            return None
        is_time = any(is_option(word, "ABSTTL") for word in argv[4:])
        how = Expiry.AT_MILLISECONDS if is_time else Expiry.MILLISECONDS
    if how not in (Expiry.OPTIONS, Expiry.BEHIND_PAIRS):
        return _milliseconds(how, argv, at, now_us)
    at += 2 * len(call.keys) if how is Expiry.BEHIND_PAIRS else 0
    expiries = []
    while at < len(argv):
        if is_option(argv[at], "PERSIST"):
            return inf
        units = [unit for word, unit in writes.EXPIRY_OPTIONS.items() if is_option(argv[at], word)]
        at += 1 + len(units)
        expiries += [_milliseconds(unit, argv, at - 1, now_us) for unit in units]
    return max((item for item in expiries if item is not None), default=None)


def _milliseconds(unit: Expiry, argv: Argv, at: int, now_us: int) -> float | None:
    """Return the expiry at a place of a call; None if there is no number."""
    try:
        number = float(int(argv[at]))
    except (IndexError, ValueError):
        return None
    if unit in (Expiry.SECONDS, Expiry.AT_SECONDS):
        number *= 1000
    is_time = unit in (Expiry.AT_SECONDS, Expiry.AT_MILLISECONDS)
    return number - now_us / 1000 if is_time else number


def _rounded(number: float) -> int:
    return int(min(number, _UNREAD_BYTES)) if number == inf else round(min(number, _UNREAD_BYTES))
