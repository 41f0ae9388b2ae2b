"""The commands that an identity may call, by one grant or by several together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

from keyleash.commands import CommandSpec, CommandTable
from keyleash.commands.spec import Needs, OptionKey
from keyleash.policy import Grant, overlaps


@dataclass(frozen=True, slots=True)
class AllowedCommands:
    """
    Names of commands, in alphabetical order.

    Attributes:
        by_grant: For each grant: the commands that it allows alone.
        together: The commands that no grant allows alone, but several on the keys of a call.
    """

    by_grant: tuple[tuple[str, ...], ...]
    together: tuple[str, ...]


def allowed_commands(grants: Sequence[Grant], table: CommandTable) -> AllowedCommands:
    """Return the commands of *table* of which *grants* allow some call.

    Denied keys and limits are left out of account.
    """
    specs = sorted(table, key=lambda spec: spec.name)
    giving = _Giving()
    by_rights: dict[object, tuple[str, ...]] = {}
    by_grant = []
    for grant in grants:
        # Most grants of a policy differ in their patterns alone.
        rights = grant.allow, grant.only, grant.except_, bool(grant.keys), bool(grant.indexes)
        if rights not in by_rights:
            by_rights[rights] = tuple(spec.name for spec in specs if giving.allow(spec, (grant,)))
        by_grant.append(by_rights[rights])
    alone = {name for names in by_rights.values() for name in names}
    left = (spec for spec in specs if spec.name not in alone)
    together = (spec.name for spec in left if giving.allow(spec, grants))
    return AllowedCommands(tuple(by_grant), tuple(together))


class _Giving:
    """A cache of whether grants give classes: many commands need the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[Needs, tuple[int, ...]], bool] = {}

    def allow(self, spec: CommandSpec, grants: Sequence[Grant]) -> bool:
        """Return whether *grants* allow some call of a command."""
        effective = [grant for grant in grants if grant.applies_to(spec)]
        if spec.refused is not None or not effective:
            return False
        classes = {cls for grant in effective for cls in grant.allow}
        if spec.variant and self._on_keys([spec.variant.needs] * len(spec.keys), effective):
            return True
        # The key of an option need not be there.
        needs = [key.needs for key in spec.keys if not isinstance(key, OptionKey)]
        return classes.issuperset(spec.needs) and self._on_keys(needs, effective)

    def _on_keys(self, several: Sequence[Needs], grants: Sequence[Grant]) -> bool:
        return all(self._on_one_key(needs, grants) for needs in several)

    def _on_one_key(self, needs: Needs, grants: Sequence[Grant]) -> bool:
        question = needs, tuple(map(id, grants))
        if question not in self._known:
            self._known[question] = _on_one_key(needs, grants)
        return self._known[question]


def _on_one_key(needs: Needs, grants: Sequence[Grant]) -> bool:
    """Return whether some key has all classes: by one grant, or by patterns that overlap."""
    if any(grant.keys and {*needs} <= {*grant.allow} for grant in grants):
        return True
    giving = [
        [key for grant in grants if cls in grant.allow for key in grant.keys] for cls in needs
    ]
    return bool(needs) and any(
        all(overlaps(item, other) for item, other in combinations(chosen, 2))
        for chosen in product(*giving)
    )
