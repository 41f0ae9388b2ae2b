"""The forms that calls of a command have, by what their keys need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from keyleash.commands import CommandSpec, CommandTable
from keyleash.commands.spec import Needs, OptionKey
from keyleash.policy.model import Grant

KEPT = 256
"""So many different pairs of narrowings are remembered; most identities have none."""

Narrowings = tuple[tuple[tuple[str, ...] | None, tuple[str, ...]], ...]
"""`only` and `except` of each grant."""


@dataclass(frozen=True, slots=True)
class Form:
    """
    One form of call.

    Attributes:
        needs: Of each kind of key that it has: COPY has two, MSET one.
        publishes: Whether it has a channel.
        scans: Whether it lists keys by a glob.
    """

    needs: tuple[Needs, ...] = ()
    publishes: bool = False
    scans: bool = False


@dataclass(frozen=True, slots=True)
class Alike:
    """
    Commands that the same grants are about.

    Attributes:
        before, after: Places of these grants in the two identities.
        names: The commands by the forms that their calls have.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    names: Mapping[Form, tuple[str, ...]]


def forms_of(spec: CommandSpec) -> tuple[Form, ...]:
    """
    The forms of a command's calls: the plain one first, then those that options make.

    A call has a key of each kind that its command always takes. One that counts no keys, or
    stops before them, does nothing on any server, and is none.
    """
    plain = tuple(search.needs for search in spec.keys if not isinstance(search, OptionKey))
    forms = [Form(plain, spec.channel is not None, spec.scans)]
    forms += [Form((*plain, key.needs)) for key in spec.keys if isinstance(key, OptionKey)]
    if spec.variant is not None:
        forms.append(Form((spec.variant.needs,) * len(plain)))
    return tuple(dict.fromkeys(forms))


def narrowings_of(grants: tuple[Grant, ...]) -> Narrowings:
    """What `commands_alike` needs to know of an identity's grants."""
    return tuple((grant.only, grant.except_) for grant in grants)


@lru_cache(KEPT)
def commands_alike(table: CommandTable, before: Narrowings, after: Narrowings) -> tuple[Alike, ...]:
    """Sort the commands of *table* by which grants of two identities are about them."""
    olds, news = _grants(before), _grants(after)
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], dict[Form, list[str]]] = {}
    for spec in sorted(table, key=lambda spec: spec.name):
        if spec.refused is not None:
            continue
        forms = found.setdefault((_about(olds, spec), _about(news, spec)), {})
        for form in forms_of(spec):
            forms.setdefault(form, []).append(spec.name)
    return tuple(
        Alike(*places, {form: tuple(names) for form, names in forms.items()})
        for places, forms in found.items()
    )


def _grants(narrowings: Narrowings) -> tuple[Grant, ...]:
    return tuple(Grant((), (), only, except_) for only, except_ in narrowings)


def _about(grants: tuple[Grant, ...], spec: CommandSpec) -> tuple[int, ...]:
    return tuple(place for place, grant in enumerate(grants) if grant.applies_to(spec))
