"""Patterns and keys over a small alphabet, so that they often meet."""

from __future__ import annotations

from hypothesis import assume
from hypothesis import strategies as st

from keyleash.errors import PolicyError
from keyleash.policy import Pattern, parse_pattern
from keyleash.policy.model import AnySuffix, Capture, Literal


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


def key_of(pattern: Pattern, captured: bytes, suffix: bytes) -> bytes:
    """A key that matches, with the same bytes in every capture."""
    filled = {Capture: captured, AnySuffix: suffix}
    return b"".join(
        part.text if isinstance(part, Literal) else filled[type(part)] for part in pattern.parts
    )
