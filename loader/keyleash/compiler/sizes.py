"""The template variables about sizes: the work of calls and the length of strings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from keyleash.commands.spec import Bound, Join, Lengthening, Work
from keyleash.commands.work import (
    ANY_SIZE,
    ASKING_WORK,
    BYTES_PER_ELEMENT,
    CONSUMER_WORK,
    DEFAULT_VALUE_BYTES,
    EXTENDED_BYTE_WORK,
    GROUP_WORK,
    IMAGE_WORK,
    PLAIN_BYTES,
    PLAIN_ENTRIES,
    QUESTION_WORK,
    READS,
    RETURNS,
    SIZE_BY_TYPE,
    STRING_WORK,
    UNASKED_READS,
    UNASKED_WORK,
    USAGE_WORK,
    WORD_WORK,
    WORK,
)
from keyleash.compiler.ir import Guard
from keyleash.compiler.render import render

_SIZES = {
    "STRLEN": "B",
    "LLEN": "L",
    "SCARD": "S",
    "ZCARD": "Z",
    "HLEN": "H",
    "XLEN": "X",
    "VCARD": "V",
    ANY_SIZE: "A",
    None: "-",
}

_JOINS = {Join.SUM: "s", Join.LEAST: "l", Join.MOST: "m", Join.PRODUCT: "p"}

_BOUNDS = {
    Bound.NONE: "-",
    Bound.KEYS: "k",
    Bound.WHOLE: "w",
    Bound.INDEX: "i",
    Bound.WORDS: "a",
    Bound.COUNT: "c",
    Bound.OPTION: "o",
    Bound.ANY: "n",
    Bound.RANGE: "r",
    Bound.SCAN: "s",
    Bound.ENTRIES: "e",
    Bound.STREAMS: "x",
    Bound.GROUPS: "g",
    Bound.FULL: "f",
    Bound.REDUCE: "d",
    Bound.REPEATS: "h",
    Bound.BYTES: "y",
}
"""Their letters in `estimate_work.lua`."""

_LENGTHENINGS = {
    Lengthening.ARGUMENT: "v",
    Lengthening.PAIRS: "p",
    Lengthening.APPEND: "a",
    Lengthening.RANGE: "r",
    Lengthening.BIT: "b",
    Lengthening.FIELDS: "f",
    Lengthening.LONGEST: "l",
    Lengthening.COPY: "c",
}
"""Their letters in `check_length.lua`."""


def _sizes() -> str:
    """Return the command for each letter and for each reply of TYPE."""
    asked = {letter: name for name, letter in _SIZES.items() if name not in (ANY_SIZE, None)}
    return "".join(f" {of}={name}" for of, name in {**asked, **SIZE_BY_TYPE}.items())


_UNITS = {
    "asking_work": ASKING_WORK,
    "question_work": QUESTION_WORK,
    "usage_work": USAGE_WORK,
    "string_work": STRING_WORK,
    "word_work": WORD_WORK,
    "group_work": GROUP_WORK,
    "consumer_work": CONSUMER_WORK,
    "unasked_work": UNASKED_WORK,
    "plain_entries": PLAIN_ENTRIES,
    "bytes_per_element": BYTES_PER_ELEMENT,
    "sizes": _sizes(),
}
"""The other template variables of `estimate_work.lua`."""


def sizes_of(guard: Guard, *, batch: bool) -> dict[str, object]:
    """Return the template variables about sizes, for a guard's script or its batch script."""
    specs = [usage.spec for usage in guard.usages if usage.missing is None]
    reading = sorted(spec.name for spec in specs if spec.name in READS)
    works = {spec.name: spec.work for spec in specs if spec.work is not None}
    if batch:
        works |= {name: READS[name] for name in reading}
    least = min((DEFAULT_VALUE_BYTES, *(bound.max_bytes for bound in guard.value_bounds)))
    return {
        "plans": plans_of(works),
        "bounds": frozenset(_BOUNDS[work.bound] for work in works.values()),
        "reading": f",{','.join(reading)}," if reading else "",
        "returning": f",{','.join(sorted(RETURNS))},",
        "image_work": IMAGE_WORK,
        "most_image_bytes": max((plan.max_bytes for plan in guard.images), default=0),
        "unasked_reads": UNASKED_READS,
        "work_limit": guard.identity.work,
        "lengthening": _lines(
            (spec.name, f"{_LENGTHENINGS[spec.lengthens.how]}{spec.lengthens.place}")
            for spec in specs
            if spec.lengthens is not None
        ),
        "lengths": guard.value_bounds,
        "least_bytes": least,
        "default_bytes": DEFAULT_VALUE_BYTES,
        "plain_bytes": PLAIN_BYTES,
        "extended_byte_work": EXTENDED_BYTE_WORK,
        **_UNITS,
    }


@cache
def estimate_script() -> str:
    """Return the script that estimates the work of a call for an operator."""
    return render(
        "estimate.lua",
        plans=plans_of(WORK),
        bounds=frozenset(_BOUNDS.values()),
        batch=False,
        **_UNITS,
    )


def plans_of(works: Mapping[str, Work]) -> str:
    """Return what `estimate_work.lua` reads: a line for each plan, with its commands.

    A plan is a letter each for size, join, first key, last key, bound and place, then the default,
    a space and the weight.
    """
    return _lines((name, _plan_of(work)) for name, work in works.items())


def _plan_of(work: Work) -> str:
    what = f"{_SIZES[work.size]}{_JOINS[work.join]}{work.first}{work.last}"
    return f"{what}{_BOUNDS[work.bound]}{work.place}{work.default} {work.weight:g}"


def _lines(entries: Iterable[tuple[str, str]]) -> str:
    """Return a line for each distinct text, with the names that have it between commas."""
    by_text: dict[str, list[str]] = {}
    for name, text in sorted(entries):
        by_text.setdefault(text, []).append(name)
    return "".join(f",{','.join(names)},={text}\n" for text, names in by_text.items())
