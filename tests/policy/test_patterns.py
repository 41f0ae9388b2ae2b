"""Key patterns: what they match, and which covers which."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyleash.errors import PolicyError
from keyleash.policy import AnySuffix, Capture, Literal, Pattern, covers, match, parse_pattern
from keyleash.policy.patterns import may_overlap, may_start_with


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    """Valid patterns over a small alphabet, so that two of them often meet."""
    pieces = draw(st.lists(st.sampled_from(["a", "b", ":", ":", "{{", "é", "{x}", "{y}"])))
    source = "".join(pieces) + draw(st.sampled_from(["", "*"]))
    try:
        return parse_pattern(source)
    except PolicyError:
        assume(False)
        raise


KEYS = st.lists(st.sampled_from([b"a", b"b", b":", b"{", b"\xc3", b"\xa9", b"\0", b"\n"])).map(
    b"".join
)
PAIRS = st.tuples(patterns(), patterns())


def key_of(pattern: Pattern, captured: bytes, suffix: bytes) -> bytes:
    """A key that matches, with the same bytes in every capture."""
    filled = {Capture: captured, AnySuffix: suffix}
    return b"".join(
        part.text if isinstance(part, Literal) else filled[type(part)] for part in pattern.parts
    )


def regex_of(pattern: Pattern) -> re.Pattern[bytes]:
    """The model: the rules for patterns, as a regular expression."""
    pieces = []
    for part in pattern.parts:
        match part:
            case Literal(text):
                pieces.append(re.escape(text))
            case Capture(name):
                pieces.append(b"(?P<%s>[^:]+)" % name.encode())
            case AnySuffix():
                pieces.append(b".*")
    return re.compile(b"".join(pieces), re.DOTALL)


def test_hash_tag_pattern_has_literal_braces_around_its_capture() -> None:
    """`{{{job_id}}}` is how a hash tag is written."""
    pattern = parse_pattern("agents:jobs:{{{job_id}}}:state")

    assert pattern.parts == (
        Literal(b"agents:jobs:{"),
        Capture("job_id"),
        Literal(b"}:state"),
    )
    assert match(pattern, b"agents:jobs:{7}:state") == {"job_id": b"7"}
    assert match(pattern, b"agents:jobs:7:state") is None


def test_other_characters_of_globs_and_regexes_are_literal() -> None:
    """Only braces and a final `*` are special."""
    pattern = parse_pattern("a.b?[c]^$%d+(e)|\\:*")

    assert match(pattern, b"a.b?[c]^$%d+(e)|\\:anything") == {}
    assert match(pattern, b"axb?[c]^$%d+(e)|\\:anything") is None


@pytest.mark.parametrize(
    ("source", "key", "captured"),
    [
        ("a:{x}", b"a:1", {"x": b"1"}),
        ("a:{x}", b"a:", None),
        ("a:{x}", b"a:1:2", None),
        ("a:{x}b", b"a:bb", {"x": b"b"}),
        ("a:{x}b", b"a:b", None),
        ("a:{x}:{y}", b"a:1:2", {"x": b"1", "y": b"2"}),
        ("a:{x}:*", b"a:1:", {"x": b"1"}),
        ("a:{x}:*", b"a:1:2:3", {"x": b"1"}),
        ("a:{x}:*", b"a:1", None),
        ("a*", b"a", {}),
        ("*", b"", {}),
        ("*", b"\xff\0\n", {}),
        ("a:{x}", b"a:\xff\0\n", {"x": b"\xff\0\n"}),
        ("é", "é".encode(), {}),
        ("é", "é".encode("latin-1"), None),
        ("a", b"A", None),
    ],
)
def test_key_matches_byte_by_byte(
    source: str, key: bytes, captured: dict[str, bytes] | None
) -> None:
    """A capture is one non-empty segment; a final `*` is any suffix, the empty one too."""
    assert match(parse_pattern(source), key) == captured


@given(pattern=patterns(), key=KEYS)
def test_any_key_matches_as_the_regex_does(pattern: Pattern, key: bytes) -> None:
    """The segment-wise reference agrees with a backtracking model."""
    found = regex_of(pattern).fullmatch(key)

    assert match(pattern, key) == (found.groupdict() if found else None)


@given(pattern=patterns(), captured=KEYS, suffix=KEYS)
def test_filled_in_pattern_matches_as_the_regex_does(
    pattern: Pattern, captured: bytes, suffix: bytes
) -> None:
    """The same for keys that come close to the pattern."""
    key = key_of(pattern, captured, suffix)
    found = regex_of(pattern).fullmatch(key)

    assert match(pattern, key) == (found.groupdict() if found else None)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("*", "a:{x}:*"),
        ("a:*", "a:b:*"),
        ("a:*", "a:"),
        ("a*", "a"),
        ("a:{x}", "a:b"),
        ("a:{x}", "a:{y}"),
        ("a:{x}", "a:b{x}c"),
        ("a:b{x}", "a:bc{x}d"),
        ("a:{x}:*", "a:b:c:*"),
        ("a:b*", "a:bc{x}:*"),
    ],
)
def test_wider_pattern_covers_the_narrower(wide: str, narrow: str) -> None:
    """…and not the other way round, unless they match the same keys."""
    first, second = parse_pattern(wide), parse_pattern(narrow)

    assert covers(first, second)
    assert covers(second, first) == (narrow == wide.replace("x", "y"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a:{x}", "a:*"),
        ("a:{x}:*", "a:*"),
        ("a:bc*", "a:b{x}"),
        ("a:{x}", "a:b:c"),
        ("a:b", "a:{x}"),
        ("a:b{x}b", "a:bb"),
        ("a:b:*", "a:b"),
    ],
)
def test_pattern_does_not_cover_what_it_may_not_match(one: str, other: str) -> None:
    """One key outside is enough."""
    assert not covers(parse_pattern(one), parse_pattern(other))


@given(pair=PAIRS, captured=KEYS, suffix=KEYS)
def test_covered_pattern_has_no_key_outside(
    pair: tuple[Pattern, Pattern], captured: bytes, suffix: bytes
) -> None:
    """If a covers b and b matches a key, a matches it too."""
    wide, narrow = pair
    key = key_of(narrow, captured, suffix)
    assume(match(narrow, key) is not None)

    assert not covers(wide, narrow) or match(wide, key) is not None


@given(pair=PAIRS)
def test_uncovered_pattern_has_a_key_outside(pair: tuple[Pattern, Pattern]) -> None:
    """`covers` says no only with a reason: a byte that no pattern names is the witness."""
    wide, narrow = pair
    witnesses = [key_of(narrow, b"\0", suffix) for suffix in (b"", b":", b"\0")]

    assert all(match(narrow, key) is not None for key in witnesses)
    assert covers(wide, narrow) or any(match(wide, key) is None for key in witnesses)


@given(pattern=patterns(), captured=KEYS, suffix=KEYS, data=st.data())
def test_beginning_of_a_matching_key_is_a_possible_beginning(
    pattern: Pattern, captured: bytes, suffix: bytes, data: st.DataObject
) -> None:
    """A deny rule on a prefix may be left out only if no key can begin with it."""
    key = key_of(pattern, captured, suffix)
    assume(match(pattern, key) is not None)
    end = data.draw(st.integers(0, len(key)))

    assert may_start_with(pattern, key[:end])


@pytest.mark.parametrize(
    ("source", "prefix", "possible"),
    [
        ("*", b"keyleash:", True),
        ("{x}:state", b"keyleash:", True),
        ("{x}:state", b"keyleash:guard:", False),
        ("key{x}:*", b"keyleash:guard:", True),
        ("kex*", b"keyleash:", False),
        ("key*", b"keyleash:", True),
        ("keyleash:guard:a", b"keyleash:guard:", True),
        ("keyleash", b"keyleash:", False),
        ("{x}leash", b"keyleash:", False),
    ],
)
def test_prefix_is_possible_only_if_some_key_begins_with_it(
    source: str, prefix: bytes, possible: bool
) -> None:
    """The pattern may be shorter or longer than the prefix."""
    assert may_start_with(parse_pattern(source), prefix) is possible


def written(pattern: Pattern) -> str:
    """The only source that gives the pattern's parts."""
    pieces = []
    for part in pattern.parts:
        match part:
            case Literal(text):
                pieces.append(text.decode().replace("{", "{{").replace("}", "}}"))
            case Capture(name):
                pieces.append(f"{{{name}}}")
            case AnySuffix():
                pieces.append("*")
    return "".join(pieces)


@given(source=st.text(alphabet="a:{}*_x"))
def test_any_text_is_a_policy_error_or_a_pattern_that_writes_back(source: str) -> None:
    """Nothing of the text is lost, so `source` says all that `parts` say."""
    try:
        pattern = parse_pattern(source)
    except PolicyError:
        return
    assert written(pattern) == source


@given(pair=PAIRS, captured=KEYS, suffix=KEYS, key=KEYS)
def test_key_that_matches_two_patterns_makes_them_overlap(
    pair: tuple[Pattern, Pattern], captured: bytes, suffix: bytes, key: bytes
) -> None:
    """A guard leaves deny rules aside for granted keys only where this says that none meets."""
    one, other = pair
    for found in (key, key_of(one, captured, suffix), key_of(other, captured, suffix)):
        if match(one, found) is not None and match(other, found) is not None:
            assert may_overlap(one, other)
            assert may_overlap(other, one)


@pytest.mark.parametrize(
    ("one", "other", "meeting"),
    [
        ("a:{x}:state", "a:{x}:lock", False),
        ("a:{x}", "a:{x}:lock", False),
        ("a:*", "a:{x}:lock", True),
        ("a:{x}:*", "a:lock", False),
        ("a:b*", "a:{x}:lock", True),
        ("a:{x}b", "a:c{x}", True),
        ("a:{x}b", "a:{x}c", False),
        ("a:bc*", "a:b{x}", True),
        ("a:bc*", "a:bd{x}", False),
        ("a:b*", "a:bc:*", True),
        ("a:bc:*", "a:b", False),
        ("*", "a", True),
        ("a", "a", True),
        ("a:{x}", "a:", False),
    ],
)
def test_patterns_overlap_as_far_as_some_key_matches_both(
    one: str, other: str, meeting: bool
) -> None:
    """Neither too often, which costs time, nor too seldom, which would lose a deny rule."""
    assert may_overlap(parse_pattern(one), parse_pattern(other)) is meeting
    assert may_overlap(parse_pattern(other), parse_pattern(one)) is meeting
