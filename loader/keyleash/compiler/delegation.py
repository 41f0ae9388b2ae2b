"""The template variables of guards whose tokens may make child tokens."""

from __future__ import annotations

from types import SimpleNamespace

from keyleash.commands import CHANNEL_CLASSES, OperationClass
from keyleash.compiler.ir import Guard
from keyleash.compiler.quoting import Text
from keyleash.limits import Budget
from keyleash.limits.budget import MAX_BUDGET
from keyleash.limits.calendar import PERIOD_US, Period
from keyleash.limits.caps import CAP_COUNTERS
from keyleash.limits.counters import BYTES
from keyleash.policy.clusters import cap_counters
from keyleash.policy.model import AnySuffix, Capture, Literal, Pattern
from keyleash.store.restrictions import MAX_ITEMS, MAX_LABEL_BYTES, MAX_LABEL_NAME, MAX_TEXT_BYTES
from keyleash.store.token import ID_ALPHABET, ID_CHARS, TAIL_HEADER

_CLASS_BITS = tuple((str(cls), 1 << place) for place, cls in enumerate(OperationClass))
_CONSTANTS = {
    "class_bits": _CLASS_BITS,
    "key_classes": sum(bits for name, bits in _CLASS_BITS if name not in CHANNEL_CLASSES),
    "byte_units": tuple(BYTES.items()),
    "cap_periods": tuple((f"/{name}", PERIOD_US[Period(name)]) for name in Budget.PERIODS),
    "max_cap": MAX_BUDGET,
    "max_items": MAX_ITEMS,
    "max_label_name": MAX_LABEL_NAME,
    "max_label_bytes": MAX_LABEL_BYTES,
    "max_text_bytes": MAX_TEXT_BYTES,
    "id_alphabet": ID_ALPHABET,
    "tail_header": TAIL_HEADER,
}


def delegation_values(guard: Guard) -> dict[str, object]:
    """Return the variables about delegation; `delegate` is None if tokens make no children."""
    if not guard.identity.delegate.depth:
        return {"delegate": None, "root_of": Text, "leaf_of": Text}
    counters = cap_counters(guard.identity, is_cluster=guard.shards is not None)
    delegation = {
        **_CONSTANTS,
        "cap_counters": [(str(counter), CAP_COUNTERS.index(counter) + 1) for counter in counters],
        "delegable": tuple(_delegable(guard)),
    }
    return {
        "delegate": guard.identity.delegate,
        "delegation": SimpleNamespace(**delegation),
        "root_of": _root_of,
        "leaf_of": _leaf_of,
    }


def _root_of(path: str) -> Text:
    """Return the id with which a path of token ids begins: it counts for all of its tree."""
    return Text(f"string.sub({path}, 1, {ID_CHARS})")


def _leaf_of(path: str) -> Text:
    """Return the id with which a path of token ids ends."""
    return Text(f"string.sub({path}, -{ID_CHARS})")


def _delegable(guard: Guard) -> dict[tuple[int, bytes], None]:
    """Return the granted patterns, each with its classes as bits."""
    bits = dict(_CLASS_BITS)
    delegable: dict[tuple[int, bytes], None] = {}
    for grant in guard.identity.grants:
        of_channels = sum(bits[cls] for cls in grant.allow if cls in CHANNEL_CLASSES)
        of_keys = sum(bits[cls] for cls in grant.allow) - of_channels
        for classes, patterns in (
            (of_keys, (*grant.keys, *grant.indexes)),
            (of_channels, grant.channels),
        ):
            delegable |= {(classes, written(item)): None for item in patterns if classes}
    return delegable


def written(pattern: Pattern) -> bytes:
    """Return a pattern with its captures between bytes 0xFF, which no literal has."""
    text = b""
    for part in pattern.parts:
        match part:
            case Literal(literal):
                text += literal
            case Capture(name):
                text += b"\xff%s\xff" % name.encode()
            case AnySuffix():
                text += b"*"
    values = (b"\xff%s\xff" % name.encode() for name in pattern.captures)
    return text + b"".join(value for value in values if value not in text)
