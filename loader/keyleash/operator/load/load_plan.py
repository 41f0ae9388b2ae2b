"""The plan of a load: its data and its text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keyleash.operator.load.compile import PreparedPolicy
from keyleash.operator.load.preview import Preview
from keyleash.policy.diff.diff_text import describe_identities
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.results import Result
from keyleash.text import counted, json_object, short_digest


@dataclass(frozen=True, slots=True)
class LoadPlan(Result):
    """The changes that a load would make.

    Attributes:
        prepared: The policy, compiled for the server.
        preview: The difference from the active policy.
        source: The origin of the policy: its file, or `of generation 3`.
    """

    prepared: PreparedPolicy
    preview: Preview
    source: str

    @property
    def digest(self) -> str:
        """The digest of the policy."""
        return self.prepared.digest

    @property
    def is_empty(self) -> bool:
        """True if nothing would be written."""
        return self.preview.is_empty

    @property
    def widened(self) -> tuple[str, ...]:
        """The identities that would get more access than they have."""
        return tuple(item.name for item in self.preview.diff.identities if item.widens)

    @property
    def removed(self) -> tuple[str, ...]:
        """The active identities that the policy lacks."""
        return self.preview.removed

    def describe(self, *, full: bool = False) -> str:
        """Return the plan as text, as `keyleash plan` prints it.

        Args:
            full: Whether to show every change of every identity. Otherwise identities with the same
                changes are shown together, and many different changes are summarized.
        """
        return "\n".join(
            (
                *_head(self),
                *describe_identities(self.preview.diff.identities, full),
                *_foot(self.preview),
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as `keyleash plan --json` prints it, without server and file."""
        preview, active = self.preview, self.preview.active
        diff = preview.diff.to_dict()
        return {
            "digest": self.digest,
            "active": active
            and {**json_object(active, "generation", "digest"), "readable": preview.is_readable},
            "changes": not preview.is_empty,
            "widens": diff["widens"],
            "needs_allow_widening": preview.needs_permission,
            "identities": diff["identities"],
            "unchanged": diff["unchanged"],
            "removed": list(preview.removed),
            "recompiled": list(preview.to_recompile),
            "counters_lost": list(preview.lost),
        }


def _head(plan: LoadPlan) -> Iterator[str]:
    preview, active = plan.preview, plan.preview.active
    yield f"policy     {plan.source}, digest {short_digest(plan.digest)}"
    if active is None:
        yield "active     none"
    else:
        yield f"active     generation {active.generation}, digest {short_digest(active.digest)}"
    if active is None and not preview.is_first:
        yield "note: the record of the active policy is missing; all identities count as new"
    if not preview.is_readable:
        yield "note: the active policy cannot be read by this version; all identities count as new"


def _foot(preview: Preview) -> Iterator[str]:
    diff = preview.diff
    yield ""
    if preview.to_recompile:
        yield (
            f"{counted(len(preview.to_recompile), 'guard')} recompiled with the same rules:"
            f" {listing(preview.to_recompile, SHOWN_IDENTITIES)}"
        )
    if preview.lost:
        yield (
            "note: limit counters are missing on the server, and start at 0:"
            f" {listing(preview.lost, SHOWN_IDENTITIES)}"
        )
    in_active = {identity.name for identity in diff.identities}
    if strays := [name for name in preview.removed if name not in in_active]:
        yield (
            "note: not in the active policy, but on the server, and removed:"
            f" {listing(strays, SHOWN_IDENTITIES)}"
        )
    if not diff.identities:
        yield "no identity changes" if not preview.is_empty else "nothing changes"
        return
    new = sum(identity.before is None for identity in diff.identities)
    removed = sum(identity.after is None for identity in diff.identities)
    changed = len(diff.identities) - new - removed
    yield f"{new} new, {changed} changed, {removed} removed, {len(diff.unchanged)} unchanged"
    widened = [identity.name for identity in diff.identities if identity.widens]
    if widened:
        yield f"widens access: {listing(widened, SHOWN_IDENTITIES)}"
    else:
        yield "widens access: none"
