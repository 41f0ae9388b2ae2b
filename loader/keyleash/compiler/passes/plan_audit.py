"""Select the keys that are masked and those with before-images."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.ir import ByteBound, Guard, Matcher
from keyleash.compiler.passes.translate_patterns import matcher


def plan_audit(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `masks` and `images`.

    Of the grants with a bound of their own that match a key, the first decides how much of it is
    recorded; of other keys, the identity's bound. Where no bound is over zero there are no plans.
    """
    audit = guard.identity.audit
    own = [
        ByteBound(matchers, grant.image_bytes)
        for matchers, grant in zip(guard.matchers, guard.identity.grants, strict=True)
        if grant.image_bytes is not None
    ]
    plans = (*own, ByteBound((Matcher(),), audit.image_bytes))
    return replace(
        guard,
        masks=tuple(dict.fromkeys(matcher(pattern) for pattern in audit.mask_keys)),
        images=plans if any(plan.max_bytes for plan in plans) else (),
    )
