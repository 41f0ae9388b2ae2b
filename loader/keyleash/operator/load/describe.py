"""A plan of a load as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from keyleash.policy.diff.describe import describe_identities
from keyleash.policy.problems import SHOWN_IDENTITIES, listing
from keyleash.store.wire import Transport
from keyleash.text import counted, short_digest

if TYPE_CHECKING:
    from keyleash.operator.load.consent import LoadPlan
    from keyleash.operator.load.plan import Preview


def describe_plan(plan: LoadPlan, full: bool) -> Iterator[str]:
    """Yield the lines of a plan; see `LoadPlan.describe`."""
    yield from _head(plan)
    yield from describe_identities(plan.preview.diff.identities, full)
    yield from _foot(plan.preview)


def _head(plan: LoadPlan) -> Iterator[str]:
    preview, active = plan.preview, plan.preview.active
    yield f"policy     {plan.source}, digest {short_digest(plan.digest)}"
    if active is None:
        yield "active     none"
    else:
        yield f"active     generation {active.generation}, digest {short_digest(active.digest)}"
    if active is not None and active.transport is not preview.transport:
        yield f"transport  {preview.transport}, until now {active.transport}"
    elif preview.transport is not Transport.EVALSHA:
        yield f"transport  {preview.transport}"
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
