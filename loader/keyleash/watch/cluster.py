"""The nodes of a cluster: their ACL users, and circuit breakers of single nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from redis.exceptions import NoPermissionError, RedisError

from keyleash.errors import OperationError
from keyleash.fence.acl import read_users
from keyleash.operator.suspension import suspend
from keyleash.policy.model import Breaker
from keyleash.policy.parse import active_policy
from keyleash.store.deployment import Cluster
from keyleash.store.fences import read_records
from keyleash.store.keyspace import HOME_TAG, Keyspace
from keyleash.store.records import read_active
from keyleash.store.shards import read_shards
from keyleash.store.state import UNTIL_RESUMED, is_in_effect
from keyleash.store.states import read_states
from keyleash.store.store import Store
from keyleash.store.users import save_users, set_user
from keyleash.watch.events import WatchEvent, WatchEventKind, done
from keyleash.watch.scripts import drift_of

ACTOR = "watch"


class ClusterRepair:
    """Looks after the nodes of a cluster, which all have the policy of its home."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def open_home(self) -> Store:
        """Return the store of the home."""
        return Store(self._cluster.home(), Keyspace(HOME_TAG), ACTOR, self._cluster)

    def repair(self, home: Callable[[], Store]) -> Iterator[WatchEvent]:
        """Add ACL users that nodes lack, and freeze identities that a node suspended.

        Yields what was done, and drifts where the user lacks a right.
        """
        for task, repair in (("ACL users", self._add_users), ("breakers", self._freeze)):
            try:
                yield from repair(home())
            except NoPermissionError as error:
                node = str(self._cluster.find(HOME_TAG))
                kind, why = drift_of(error)
                yield WatchEvent(node, kind, f"cannot look after {task}: {why}", task)
            except (RedisError, OperationError):
                # Nodes that do not answer are drifts by themselves.
                continue

    def _add_users(self, store: Store) -> Iterator[WatchEvent]:
        """Copy the users of agents from the home to nodes that lack them."""
        names = list(read_records(store))
        wanted = read_users(store.client, names) if names else {}
        for node in self._cluster.servers:
            if not wanted or node.role is None:
                continue
            present = read_users(node.client, list(wanted))
            missing = [name for name in wanted if name not in present]
            for name in missing:
                set_user(node.client, name, wanted[name].words)
            if missing:
                save_users(node.client)
                message = f"ACL users that it lacked: {', '.join(missing)}"
                yield done(node.name, WatchEventKind.LOADED, message)

    def _freeze(self, store: Store) -> Iterator[WatchEvent]:
        """Freeze at the home what the circuit breaker of one node suspended there."""
        now_us = store.now_us()
        breakers = self._breakers(store)
        names = list(breakers)
        home = dict(zip(names, read_states(store, names), strict=True))
        for found in read_shards(store, names):
            state, at_home = found.state, home[found.identity]
            until_us = 0 if state is None else state.suspended
            is_tripped = is_in_effect(until_us, now_us)
            if is_tripped and at_home is not None and not at_home.is_suspended(now_us):
                left_s = math.ceil((until_us - now_us) / 1_000_000)
                reason = breakers[found.identity].reason
                for_s = left_s if until_us > UNTIL_RESUMED else None
                # Not behind an operator who resumes the identity meanwhile.
                names = [found.identity]
                frozen = suspend(store, names, reason, for_s, epoch=found.epoch)
                home[found.identity] = None
                if not frozen.identities[0].changed:
                    continue
                message = f"its circuit breaker suspended `{found.identity}`"
                yield done(found.node, WatchEventKind.FROZEN, message)

    def _breakers(self, store: Store) -> dict[str, Breaker]:
        active = read_active(store)
        identities = active_policy(active.document).identities if active else ()
        return {item.name: item.on_denials for item in identities if item.on_denials is not None}
