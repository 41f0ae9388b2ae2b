"""The template variables about sizes: the work of calls and the length of strings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace

from keyleash.commands import CommandSpec
from keyleash.commands.spec import Lengthening, OperationClass, Size, Work
from keyleash.commands.work import (
    DEFAULT_VALUE_BYTES,
    PLAIN_BYTES,
    READS,
    RETURNS,
    SIZE_BY_TYPE,
    UNNOTED_BYTES,
)
from keyleash.commands.writes import (
    EXPIRIES,
    EXPIRY_OPTIONS,
    FLOAT_BYTES,
    FLOAT_MORE_BYTES,
    IDLE,
    NUMBER_BYTES,
    READ_FORMS,
    SKETCH_BYTES,
    Writes,
    written_by,
)
from keyleash.compiler.ir import Governing, Guard
from keyleash.compiler.quoting import Text

_COMMANDS = {size.value: size.name for size in Size if size not in (Size.ANY, Size.NONE)}
SIZE_COMMANDS = "".join(f" {of}={name}" for of, name in {**_COMMANDS, **SIZE_BY_TYPE}.items())
"""The command for each letter and for each reply of TYPE."""

_COPIES = {Writes.WHOLE, Writes.PAYLOAD}
"""The ways to write that are checked by reading all of another key, or of a payload."""
_NUMBERS = {Writes.NUMBER, Writes.FLOAT, Writes.FIELD_FLOAT, Writes.SKETCH}
"""The ways whose values have a length that the command decides."""
_BYTES = {
    "number_bytes": NUMBER_BYTES,
    "float_bytes": FLOAT_BYTES,
    "float_more_bytes": FLOAT_MORE_BYTES,
    "sketch_bytes": SKETCH_BYTES,
}


def sizes_of(guard: Guard, *, batch: bool, sandbox: bool = False) -> dict[str, object]:
    """Return the template variables about sizes.

    Args:
        batch: For a script that runs several commands.
        sandbox: For approved scripts, of which each command runs before the next is checked.
    """
    specs = [usage.spec for usage in guard.usages if usage.missing is None]
    # Without the class no SET has the option GET.
    reads = any(OperationClass.READ in grant.allow for grant in guard.identity.grants)
    reading = sorted(spec.name for spec in specs if reads and spec.name in READS)
    gets = "SET" in reading
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
        "most_taken": Text("math.max(took, longest)" if plans else "took"),
        # Before-images are work too, although a call alone has room for them.
        "bounds": frozenset(work.bound for work in works.values()),
        "reading": f",{','.join(reading)}," if reading else "",
        "gets": gets,
        "omitted": Text("unheard[i]" + " or olds and olds[i]" * gets),
        "returning": f",{','.join(sorted(RETURNS))},",
        "most_image_bytes": max((plan.max_bytes for plan in guard.images), default=0),
        "work_limit": guard.identity.work,
        # A call collects garbage by chance: once for half the work that a call may do, on average.
        "collects_after": lambda now, units: Text(
            f"{now} % {guard.identity.work} < {units} + {units}"
        ),
        "string_units": guard.identity.string_units,
        # A batch is allowed less without reading sizes.
        "spare": 64 if batch else 8,
        # The bytes of a command that are no work; those of a batch add up.
        "free_bytes": 1024 if batch else PLAIN_BYTES,
        "lengthening": lengthening,
        "lengths": guard.value_bounds,
        "naming": any(spec.lengthens and spec.lengthens.how is Lengthening.NAMES for spec in specs),
        # Later commands may add to what earlier ones leave under any name.
        "adding_bytes": batch and not sandbox and bool(guard.value_bounds and lengthening),
        **_values_of(guard, specs, remembering=batch and not sandbox),
        "least_bytes": least,
        "asked_bytes": _asked_bytes(guard, least) if batch and not sandbox else least,
        "sizes": SIZE_COMMANDS,
    }


def _asked_bytes(guard: Guard, least: int) -> int:
    """Return the length of a value up to which a batch does not note it.

    Later commands may add to a short string. With the default bound alone a few bytes more do not
    matter, and to note each value would cost runs.
    """
    return 0 if guard.value_bounds else min(least, UNNOTED_BYTES)


def _values_of(
    guard: Guard, specs: Sequence[CommandSpec], *, remembering: bool
) -> dict[str, object]:
    """Return the template variables about rules for values."""
    kinds = Governing.of(guard.value_plans)
    remembering = remembering and (kinds.elements or kinds.absent)
    checked = ("always", "batch") if remembering else ("always",)
    governed = [spec for spec in specs if kinds.governs(spec) in checked]
    written = {spec.name: item for spec in governed if (item := written_by(spec))}
    hows = frozenset(item.how for item in written.values())
    expiries = {name: EXPIRIES[name] for name in written if name in EXPIRIES}
    return {
        "governing": _lines(
            (name, f"{item.target}{item.how}{item.place}") for name, item in written.items()
        ),
        "sized": Text("work > 0 or weighs or lengthens" + (" or governs" if written else "")),
        "remembering": remembering,
        "values": SimpleNamespace(
            hows=hows,
            reads_values=not hows.isdisjoint(_COPIES | {Writes.RESULT}),
            reads_wholes=not hows.isdisjoint(_COPIES),
            writes_numbers=not hows.isdisjoint(_NUMBERS),
            unless_expiring=Text(" and not expiring" if kinds.ttl else ""),
            **_BYTES,
            expiries=_lines((name, f"{how}{place}") for name, (how, place) in expiries.items()),
            idles=_lines((name, IDLE[name]) for name in written if name in IDLE),
            expiry_words="".join(f" {word}={how}" for word, how in EXPIRY_OPTIONS.items()),
            rules=kinds,
            read_forms="".join(
                f" {name}={form} " for name, form in READ_FORMS.items() if name in written
            ),
        ),
    }


def plans_of(works: Mapping[str, Work]) -> str:
    """Return the plans that `estimate_work.lua` reads, one per line with its commands.

    A plan is a letter or digit each for `Size`, `Join`, first key, last key, `Bound` and place,
    then the default, the weight and the strings, with spaces between them.
    """

    def size_of(work: Work) -> Size:
        return Size.NONE if work.size is None else Size[work.size]

    return _lines(
        (
            name,
            f"{size_of(work)}{work.join}{work.first}{work.last}{work.bound}{work.place}"
            f"{work.default} {work.weight:g} {work.strings}",
        )
        for name, work in works.items()
    )


def _lines(entries: Iterable[tuple[str, str]]) -> str:
    """Return a line for each distinct text, with the names that have it between commas."""
    by_text: dict[str, list[str]] = {}
    for name, text in sorted(entries):
        by_text.setdefault(text, []).append(name)
    return "".join(f",{','.join(names)},={text}\n" for text, names in by_text.items())
