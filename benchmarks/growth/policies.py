"""The policies that are measured, and what a server needs before their guards can be called."""

from __future__ import annotations

import json
from collections.abc import Iterable

import redis
from benchmarks.support.policy import RAISED_LIMITS
from benchmarks.support.variants import KEY, OK, VALUE, Counts, Variant, Way

from keyleash.store.keyspace import Keyspace
from keyleash.store.token import KEEP_AFTER_EXPIRY_MS, TokenRecord

LIFE_S = 3600
CHUNK = 1_000

_ISSUE = """
local root, tokens, identity, head, known, kept_until_ms = unpack(ARGV, 1, 6)
for n = ARGV[7], ARGV[8] do
  local id = string.format('%012d', n)
  local digest = redis.sha1hex(string.format('kl_%s_%032d', identity, n))
  redis.call('SET', root .. digest, head .. id, 'PXAT', kept_until_ms)
  redis.call('HSET', tokens, id, (string.gsub(known, '%%', digest)))
end
"""
"""What `keyleash.tokens.issue_token` writes, but for the line in the control stream."""


def identity(
    name: str,
    keys: Iterable[str],
    allow: str = "write",
    *,
    deny: str = "",
    limits: str = RAISED_LIMITS,
    retain: int = 100_000,
    audit: str = "",
) -> str:
    """One identity of a policy: a grant, three limits that let every call pass."""
    listed = ", ".join(f'"{key}"' for key in keys)
    denied = f'    deny: [{{keys: ["{deny}"]}}]\n' if deny else ""
    return (
        f"  {name}:\n    kind: machine\n    audit: {{retain: {retain}{audit}}}\n"
        f"    grants: [{{allow: [{allow}], keys: [{listed}]}}]\n{denied}{limits}"
    )


def runner(name: str) -> str:
    """An identity with the rules of the example's agent-runner."""
    states = [f"agents:jobs:{{job_id}}:{kind}" for kind in ("state", "result")]
    return identity(name, states, "read, write", deny="agents:jobs:{job_id}:lock")


def document(identities: Iterable[str]) -> str:
    """A policy of these identities."""
    return "version: 1\nidentities:\n" + "".join(identities)


def guarded_set(name: str, key: str = KEY, value: str = VALUE) -> Variant:
    """A SET through the guard; passed, counted and audited."""
    return Variant(name, ("SET", key, value), OK, Way.GUARD, name, Counts(passed=1, audited=1))


def issue_tokens(admin: redis.Redis, identity: str, count: int) -> list[str]:
    """Issue so many tokens at once, by a script: one by one takes a parsing of the policy each."""
    keyspace = Keyspace()
    seconds, micros = admin.time()
    now_us = seconds * 1_000_000 + micros // 1000 * 1000
    record = TokenRecord("0" * 12, expires_us=now_us + LIFE_S * 1_000_000, used_us=now_us)
    expires_ms = record.expires_us // 1000
    known = {
        "digest": "%",
        "issued_ms": now_us // 1000,
        "expires_ms": expires_ms,
        "by": "benchmark",
        "note": "",
    }
    script = admin.register_script(_ISSUE)
    for first in range(0, count, CHUNK):
        last = min(first + CHUNK, count) - 1
        head = record.pack()[: -len(record.id)]
        names = (keyspace.token_prefix(identity), keyspace.tokens(identity), identity)
        kept_until_ms = expires_ms + KEEP_AFTER_EXPIRY_MS
        script(args=[*names, head, json.dumps(known), kept_until_ms, first, last])
    return [token_of(identity, n) for n in range(count)]


def token_of(identity: str, number: int) -> str:
    """The token with that number."""
    return f"kl_{identity}_{number:032d}"
