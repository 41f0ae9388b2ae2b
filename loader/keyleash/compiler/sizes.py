"""The template variables about sizes: the work of calls and the length of strings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

from keyleash.commands.spec import Bound, Work
from keyleash.commands.work import ANY_SIZE, DEFAULT_VALUE_BYTES, READS, RETURNS, SIZE_BY_TYPE, WORK
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
"""The letters of commands that return sizes, in `estimate_work.lua`."""

_COMMANDS = {letter: name for name, letter in _SIZES.items() if name not in (ANY_SIZE, None)}
_SIZE_COMMANDS = "".join(f" {of}={name}" for of, name in {**_COMMANDS, **SIZE_BY_TYPE}.items())
"""The command for each letter and for each reply of TYPE."""


def sizes_of(guard: Guard, *, batch: bool) -> dict[str, object]:
    """Return the template variables about sizes, for a guard's script or its batch script."""
    specs = [usage.spec for usage in guard.usages if usage.missing is None]
    reading = sorted(spec.name for spec in specs if spec.name in READS)
    works = {spec.name: spec.work for spec in specs if spec.work is not None}
    if batch:
        works |= {name: READS[name] for name in reading}
    plans = plans_of(works)
    lengthening = _lines(
        (spec.name, f"{spec.lengthens.how}{spec.lengthens.place}")
        for spec in specs
        if spec.lengthens is not None
    )
    least = min((DEFAULT_VALUE_BYTES, *(bound.max_bytes for bound in guard.value_bounds)))
    return {
        "plans": plans,
        # Before-images are work too, although a call alone has room for them.
        "weighing": bool(plans or lengthening or (batch and guard.images)),
        "bounds": frozenset(work.bound for work in works.values()),
        "reading": f",{','.join(reading)}," if reading else "",
        "returning": f",{','.join(sorted(RETURNS))},",
        "most_image_bytes": max((plan.max_bytes for plan in guard.images), default=0),
        "work_limit": guard.identity.work,
        "lengthening": lengthening,
        "lengths": guard.value_bounds,
        "least_bytes": least,
        "sizes": _SIZE_COMMANDS,
    }


@cache
def estimate_script() -> str:
    """Return the script that estimates the work of a call for an operator."""
    return render(
        "estimate.lua",
        plans=plans_of(WORK),
        bounds=frozenset(Bound),
        patterns=(),
        batch=False,
        sizes=_SIZE_COMMANDS,
    )


def plans_of(works: Mapping[str, Work]) -> str:
    """Return the plans that `estimate_work.lua` reads, one per line with its commands.

    A plan is a letter each for size, join, first key, last key, bound and place, then the default,
    a space and the weight.
    """
    return _lines(
        (
            name,
            f"{_SIZES[work.size]}{work.join}{work.first}{work.last}{work.bound}{work.place}"
            f"{work.default} {work.weight:g}",
        )
        for name, work in works.items()
    )


def _lines(entries: Iterable[tuple[str, str]]) -> str:
    """Return a line for each distinct text, with the names that have it between commas."""
    by_text: dict[str, list[str]] = {}
    for name, text in sorted(entries):
        by_text.setdefault(text, []).append(name)
    return "".join(f",{','.join(names)},={text}\n" for text, names in by_text.items())
