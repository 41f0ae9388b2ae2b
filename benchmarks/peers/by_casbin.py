"""`pycasbin` for the policy instead of one pattern, `limits` for the rate; the rest by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import casbin
import redis
from benchmarks.peers.by_limits import rate_by
from benchmarks.peers.peer import (
    NO,
    PART,
    YES,
    Bed,
    Guarantees,
    Local,
    Peer,
    RefusedError,
    versions,
)
from benchmarks.peers.work import Work, revoke_token, tally
from casbin.model import FastModel
from limits.strategies import FixedWindowRateLimiter

MODEL = """
[request_definition]
r = sub, obj, act

[policy_definition]
p = sub, obj, act, eft

[policy_effect]
e = some(where (p.eft == allow)) && !some(where (p.eft == deny))

[matchers]
m = r.sub == p.sub && r.act == p.act && regexMatch(r.obj, p.obj)
"""
"""Grants and deny rules; its keyMatch functions know segments by `/` only."""

RULES = (
    ("agents:jobs:[^:]+:state$", "allow"),
    ("agents:jobs:[^:]+:result$", "allow"),
    ("agents:jobs:[^:]+:lock$", "deny"),
)
"""What agent-runner may write; rules of other subjects would be passed over by an index."""

BY_SUBJECT_AND_ACTION = (0, 2)

GUARANTEES = Guarantees(
    atomic=NO,
    race_free=YES,
    free=NO,
    audited=NO,
    enforced=NO,
    clock=PART,
    revocable=PART,
    remark="a policy in the client's memory, good until it loads another; else as `limits`",
)


def enforcer(subject: str) -> casbin.FastEnforcer:
    """The one that its documentation calls fast, with its rules indexed."""
    model = FastModel(BY_SUBJECT_AND_ACTION)
    model.load_model_from_text(MODEL)
    made = casbin.FastEnforcer(model, cache_key_order=BY_SUBJECT_AND_ACTION)
    for pattern, effect in RULES:
        made.add_policy(subject, pattern, "write", effect)
    return made


@contextmanager
def _open(bed: Bed) -> Iterator[Local]:
    take_rate = rate_by(FixedWindowRateLimiter, bed, "casbin")
    policy, identity = enforcer(bed.identity), bed.identity
    with redis.Redis.from_url(bed.url) as client:
        work = Work(client, bed)

        def call(key: str) -> None:
            work.require_token()
            if not policy.enforce(identity, key, "write"):
                raise RefusedError("key")
            take_rate()
            work.take_budget()
            work.write(key)
            work.append_event(key)

        yield Local(call)


PEER = Peer(
    "pycasbin + limits, fixed",
    versions("pycasbin", "limits", "redis", "hiredis"),
    GUARANTEES,
    _open,
    tally,
    revoke_token,
)
