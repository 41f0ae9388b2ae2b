"""The public face: each noun of `Operator`, and the function of each of its methods."""

from __future__ import annotations

from keyleash.api import fences
from keyleash.operations import F, Noun
from keyleash.operator.credit import collect_credit
from keyleash.operator.limit_reset import reset_limits


class LimitOperations(Noun[F]):
    """Limits: `Operator.limits`."""

    reset = reset_limits
    collect = collect_credit


class FenceOperations(Noun[F]):
    """The ACL users of agents: `Operator.fence`.

    Common arguments: *nodes* are clients or URLs of further servers, such as replicas, which have
    ACL users of their own.
    """

    plan = fences.plan_users
    apply = fences.apply_users
    identities = fences.fenced_identities
    rotate = fences.rotate_passwords
    finish_rotation = fences.finish_rotation
    remove = fences.remove_users
