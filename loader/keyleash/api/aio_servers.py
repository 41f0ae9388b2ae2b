"""ACL users and prefixes for operators, for asyncio; `api/sync_servers.py` is generated from it."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.api import calls
from keyleash.api.calls import FencePlan
from keyleash.api.run import AsyncRunner
from keyleash.fence import FenceOutcome, GeneratedPassword
from keyleash.store.prefixes import ChangeKind
from keyleash.store.server_check import Client
from keyleash.vault import ChangeResult, adopt_keys, release_keys


class AsyncFenceOperations:
    """The ACL users of agents: `Operator.fence`.

    Common arguments: *nodes* are clients or URLs of further servers, such as replicas, which have
    ACL users of their own; user and password of a URL default to those of this server.
    """

    def __init__(self, run: AsyncRunner) -> None:
        self._run = run

    async def plan(self, *, nodes: Sequence[Client | str] = ()) -> FencePlan:
        """Return what `apply` would do; nothing is changed."""
        return await self._run.call(calls.plan_users, nodes)

    async def apply(
        self, *, nodes: Sequence[Client | str] = (), generate: bool = False
    ) -> tuple[FenceOutcome, tuple[GeneratedPassword, ...]]:
        """Create an ACL user for each identity of the active policy.

        Args:
            nodes: See the class.
            generate: Generate a password for users without one.

        Returns:
            The outcome, and the generated passwords, which are stored nowhere.
        """
        return await self._run.call(calls.apply_users, nodes, generate)

    async def rotate(
        self, *identities: str, nodes: Sequence[Client | str] = ()
    ) -> tuple[GeneratedPassword, ...]:
        """Add a second password to the users of some identities, or of all, and return it."""
        return await self._run.call(calls.rotate_passwords, identities, nodes)

    async def finish_rotation(
        self, *identities: str, nodes: Sequence[Client | str] = ()
    ) -> tuple[str, ...]:
        """Remove the older password of users; return the identities that had one."""
        return await self._run.call(calls.finish_rotation, identities, nodes)

    async def remove(
        self, *identities: str, nodes: Sequence[Client | str] = ()
    ) -> tuple[tuple[str, str], ...]:
        """Delete the users of some identities, or of all; return server and identity of each."""
        return await self._run.call(calls.remove_users, identities, nodes)


class AsyncVaultOperations:
    """Random prefixes of all keys: `Operator.vault`."""

    def __init__(self, run: AsyncRunner) -> None:
        self._run = run

    async def seal(
        self, *, adopt: Sequence[str] = (), nodes: Sequence[Client | str] = ()
    ) -> ChangeResult:
        """Move all keys of keyleash, and the keys that match *adopt*, under random prefixes."""
        return await self._run.call(calls.change, ChangeKind.SEAL, nodes, adopt)

    async def rotate(self, *, nodes: Sequence[Client | str] = ()) -> ChangeResult:
        """Replace the prefixes by new ones."""
        return await self._run.call(calls.change, ChangeKind.ROTATE, nodes)

    async def unseal(self, *, nodes: Sequence[Client | str] = ()) -> ChangeResult:
        """Move all keys back to their names."""
        return await self._run.call(calls.change, ChangeKind.UNSEAL, nodes)

    async def adopt(self, *patterns: str) -> int:
        """Move keys that match into the vault; return their number."""
        return await self._run.call(adopt_keys, patterns)

    async def release(self, *patterns: str) -> int:
        """Move keys that match out of the vault; return their number."""
        return await self._run.call(release_keys, patterns)
