"""Rules of a policy that a cluster cannot keep, with their place in the file."""

from __future__ import annotations

from keyleash.policy import parse_policy
from keyleash.policy.clusters import cluster_problems
from support.leash import grant, policy


def test_idempotency_is_a_problem_at_its_place_in_the_file() -> None:
    """No record of a call can be in the slot of every key yet."""
    document = policy(one={"grants": [grant("write", keys="a")], "idempotency": {"keep": "1h"}})
    (problem,) = cluster_problems(parse_policy(document, file="policy.json", commands=None))

    assert (problem.code, problem.span.file) == ("cluster-idempotency", "policy.json")
    assert document[problem.span.column - 1 :].startswith('"idempotency"')
