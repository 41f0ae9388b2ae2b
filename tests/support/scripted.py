"""Identities with approved scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import redis
import redis.asyncio

import keyleash
from client.alike import Awaited
from keyleash.audit.read import read_events
from support.clustered import ClusterServer
from support.leash import Leash, with_files

MOVE = """
-- Moves as many items as the second argument says.
local moved = {}
for n = 1, tonumber(ARGV[1]) do
  local item = redis.call('lpop', KEYS[1])
  if not item then break end
  redis.call('rpush', KEYS[2], item .. ARGV[2])
  moved[#moved + 1] = item
end
return moved
"""
COUNT = "return redis.call('INCR', KEYS[1])"
PEEK = "return redis.call('GET', KEYS[1])"
WRITE_AND_FAIL = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('LPUSH', KEYS[1], 'x') return 'no'"
SORTED = "local found = redis.pcall('SET', ARGV[1], '1') return found.err or 'allowed'"
REPLIES = (
    "return {1, 2.9, 'a', false, true, {2, {3}}, redis.status_reply('FINE'), cjson.encode({a = 1}),"
    " #ARGV, redis.call('TYPE', KEYS[1]).ok}"
)
LIBRARIES = (
    "local t = {'a', 'c'} table.insert(t, 2, 'b') table.insert(t, '4', 'd') table.remove(t, 1)"
    " local ok, raised = pcall(function() error('why') end)"
    " return {string.find('a1', 1), string.match('k=v', '^(.-)=(.*)$'), table.concat(t, '-', 1, 2),"
    " string.gsub('a1b1', 1, 2), string.rep('x', -1), (string.rep('ab', '2')), unpack({1, 2}, 2),"
    " string.find('a.b', '.', 1, true), 'a' < 'b', string.match(12, '%d$'),"
    " string.find(raised, 'why') > 3}"
)
TEXTS = [MOVE, COUNT, PEEK, WRITE_AND_FAIL, SORTED, REPLIES, LIBRARIES]


class ScriptLeash(Leash):
    """Agents over guarded pools, with approved scripts."""

    def approve(self, **rules: Any) -> None:
        names = {f"s{n}": text for n, text in enumerate(TEXTS)}
        allowed = {"allow": ["read", "write", "delete"], "keys": ["app:*"], "scripts": [*names]}
        document = {
            "version": 1,
            "scripts": {name: {"file": f"{name}.lua"} for name in names},
            "identities": {"one": {"kind": "machine", "grants": [allowed], **rules}},
        }
        files = {f"{name}.lua": text for name, text in names.items()}
        self.load(with_files(json.dumps(document), files))

    def redis(self, runner: asyncio.Runner | None = None, **options: Any) -> Any:
        url = f"redis://localhost:{self.server.port}"
        options["token"] = self.issue("one").token
        if isinstance(self.server, ClusterServer):
            return self.server.guarded(**options)
        if runner is None:
            return redis.Redis(connection_pool=keyleash.pool(url, **options))
        pool = keyleash.asyncio.pool(url, **options)
        return Awaited(redis.asyncio.Redis(connection_pool=pool), runner)

    def recorded(self) -> list[tuple[str, str, tuple[bytes, ...], str | None]]:
        """Return the events of the identity."""
        events = read_events(self.store, ["one"])
        return [(item.script, item.op, item.keys, item.error) for item in events]


def scripted(
    leash: Leash,
    text: str,
    *grants: Any,
    keys: Sequence[str] = ("app:*",),
    narrowed: Mapping[str, Any] | None = None,
    **rules: Any,
) -> Any:
    """Return a client of an identity whose only script has the text."""
    grant = {"allow": ["read", "write", "delete"], "keys": [*keys], "scripts": ["s"]}
    grant |= narrowed or {}
    document = {
        "version": 1,
        "scripts": {"s": {"file": "s.lua"}},
        "identities": {"one": {"kind": "machine", "grants": [grant, *grants], **rules}},
    }
    leash.load(with_files(json.dumps(document), {"s.lua": text}))
    return leash.client(leash.issue("one").token)
