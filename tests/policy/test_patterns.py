"""Key patterns: how they are written, and what they match."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from keyleash.errors import PolicyError
from keyleash.policy import Pattern, match, parse_pattern
from keyleash.policy.model import AnySuffix, Capture, Literal
from keyleash.policy.patterns import may_start_with
from support.patterns import KEYS, key_of, patterns


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


def test_pattern_of_many_segments_is_rejected() -> None:
    """Patterns are compared segment by segment: 20,000 of them would take 3 GB."""
    assert len(parse_pattern(":".join("a" * 128)).parts) == 1
    with pytest.raises(PolicyError, match="the key pattern has more than 128 segments"):
        parse_pattern(":".join("a" * 129))


def test_hash_tag_pattern_has_literal_braces_around_its_capture() -> None:
    """`{{{job_id}}}` is how a hash tag is written."""
    pattern = parse_pattern("agents:jobs:{{{job_id}}}:state")

    assert pattern.parts == (Literal(b"agents:jobs:{"), Capture("job_id"), Literal(b"}:state"))
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
