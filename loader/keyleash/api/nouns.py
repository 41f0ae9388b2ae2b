"""The public face: each noun of `Operator`, and the function of each of its methods."""

from __future__ import annotations

from keyleash.operations import F, Noun
from keyleash.operator.credit import collect_credit
from keyleash.operator.limit_reset import reset_limits


class LimitOperations(Noun[F]):
    """Limits: `Operator.limits`."""

    reset = reset_limits
    collect = collect_credit
