"""
Keeping users in step with a load: no agent is refused while one guard replaces another.

Before the activation a user gets what the new guard needs besides what it has, and afterwards
what the old one needed is taken away. An agent that still calls the old script then is
refused by its server; the wrapper looks the guard up again, as it does for a stale one.

What a load that died between the two leaves is more than a user needs, and
`keyleash fence plan` says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from redis.exceptions import ResponseError

from keyleash.compiler import CompiledGuard
from keyleash.errors import KeyleashError
from keyleash.fence.acl import (
    Rules,
    RulesRefusedError,
    Selector,
    User,
    delete_users,
    read_users,
    save,
    set_user,
)
from keyleash.fence.apply import put_user
from keyleash.fence.facts import read_facts
from keyleash.fence.plan import why_foreign
from keyleash.fence.record import Record, forget_records, read_records
from keyleash.fence.rules import Fence, fence_of, script_calls, without_digests
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.transport import Transport


@contextlib.contextmanager
def refreshed_users(
    clients: Sequence[Client],
    keyspace: Keyspace,
    guards: Sequence[CompiledGuard],
    transport: Transport,
    records: Mapping[str, Record] | None = None,
) -> Iterator[None]:
    """
    Activate *guards* in the block.

    Args:
        clients: One for each server that has users; the first has the control keys.
        keyspace: Where these are.
        guards: Of the new policy. Users of identities that are not in it are deleted.
        transport: How they will be called.
        records: What is known of the users; it is read if None.

    Raises:
        UnsayablePatternError: ACL rules cannot hold a pattern; nothing was activated.
    """
    if records is None:
        records = read_records(clients[0], keyspace)
    if not records:
        yield
        return
    facts = read_facts(clients, keyspace)
    fences = [
        fence_of(guard, script_calls(guard, transport), facts)
        for guard in guards
        if guard.identity in records
    ]
    nodes = [_Refresh(client, keyspace, facts.database, records, fences) for client in clients]
    for node in nodes:
        node.widen()
    try:
        yield
    except (KeyleashError, ResponseError):
        # The server said no. After a lost connection nobody knows, and both stay allowed.
        for node in nodes:
            node.give_up()
        raise
    names = {guard.identity for guard in guards}
    gone = tuple(name for name in records if name not in names)
    for node in nodes:
        node.narrow()
        node.delete(gone)
        save(node.client)
    forget_records(clients[0], keyspace, gone)


class _Refresh:
    """The users of one server during one load."""

    def __init__(
        self,
        client: Client,
        keyspace: Keyspace,
        database: int,
        records: Mapping[str, Record],
        fences: Sequence[Fence],
    ) -> None:
        self.client = client
        self._keyspace = keyspace
        self._database = database
        self._records = records
        self._users = self._ours([one.identity for one in fences])
        # One that is not there, or not keyleash's, is not a load's to make.
        self._fences = [one for one in fences if one.identity in self._users]
        self._added: dict[str, list[Selector]] = {}

    def widen(self) -> None:
        for fence in self._fences:
            known = {one.meaning for one in self._users[fence.identity].rules.selectors}
            added = [one for one in fence.rules.selectors if one.meaning not in known]
            if added:
                self._added[fence.identity] = self._add(fence, added)

    def _add(self, fence: Fence, added: list[Selector]) -> list[Selector]:
        try:
            set_user(self.client, fence.identity, map(str, added))
        except RulesRefusedError:
            # See `put_user`. The runner is the first, if it is among them.
            plain = without_digests(Rules(fence.rules.root, tuple(added))).selectors
            set_user(self.client, fence.identity, map(str, plain))
            return list(plain)
        return added

    def narrow(self) -> None:
        for fence in self._fences:
            put_user(self.client, fence.identity, self._with(fence.identity, fence.rules))

    def give_up(self) -> None:
        """Take away what was added, and no more: another load may have added, too."""
        now = self._ours(list(self._added))
        for name, user in now.items():
            added = {one.meaning for one in self._added[name]}
            kept = tuple(one for one in user.rules.selectors if one.meaning not in added)
            set_user(self.client, name, self._with(name, Rules(user.rules.root, kept)).words)

    def delete(self, identities: Sequence[str]) -> None:
        delete_users(self.client, list(self._ours(identities)))

    def _with(self, identity: str, rules: Rules) -> User:
        """A user as it is, but for its rules."""
        user = self._users[identity]
        return User(rules, user.passwords, user.is_on)

    def _ours(self, identities: Sequence[str]) -> dict[str, User]:
        users = read_users(self.client, list(identities))
        return {
            name: user
            for name, user in users.items()
            if why_foreign(user, name, self._keyspace, self._database, self._records.get(name))
            is None
        }
