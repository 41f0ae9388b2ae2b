"""ACL users and prefixes for operators."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from keyleash.api import calls, fences
from keyleash.api.fences import Hashes
from keyleash.api.policy import Policy
from keyleash.fence import (
    FencedUser,
    FenceOutcome,
    FencePlan,
    GeneratedPassword,
    PasswordRotation,
    Tier,
)
from keyleash.operations import F, Noun, method
from keyleash.operations.arguments import choice
from keyleash.results import Progress
from keyleash.store.clients import AnyClient
from keyleash.store.prefixes import ChangeKind
from keyleash.vault import ChangeResult, adopt_keys, release_keys


class FenceOperations(Noun[F]):
    """The ACL users of agents: `Operator.fence`.

    Common arguments: *nodes* are clients or URLs of further servers, such as replicas, which have
    ACL users of their own.
    """

    @method
    def plan(
        self,
        *,
        nodes: Sequence[AnyClient | str] = (),
        policy: Policy | None = None,
        tier: Tier | str | None = None,
        wide: Collection[str] = (),
        hashes: Hashes = "",
        generate: bool = False,
    ) -> FencePlan:
        """Return what `apply` would do; nothing is changed.

        Args:
            nodes: Clients or URLs of further servers, such as replicas.
            policy: A policy that must be the active one.
            tier: The tier that the server must have.
            wide: Identities that are fenced although their patterns may match control keys.
            hashes: SHA-256 of passwords in hex for users without one, by identity, or text with
                lines `identity sha256`.
            generate: Generate a password for every other user without one: `passwords` of the
                plan.

        Raises:
            OperationError (no-policy): no policy is active.
            OperationError (not-active-policy): *policy* is not the active one.
            OperationError (unknown-identity): *wide* or *hashes* names no identity of the policy.
            OperationError (unsayable-pattern): ACL rules cannot express a pattern.
            UsageError: the server has another tier, or *hashes* is malformed.
        """
        return self._run.call(
            fences.plan_users,
            nodes,
            policy=policy,
            tier=None if tier is None else choice("tier", Tier, tier),
            wide=wide,
            hashes=hashes,
            generate=generate,
        )

    @method
    def apply(
        self,
        plan: FencePlan,
        *,
        announce: Callable[[Sequence[GeneratedPassword]], None] = lambda _passwords: None,
    ) -> FenceOutcome:
        """Create, change and delete the users of a plan, and verify them on each server.

        Args:
            plan: A plan that `plan` returned.
            announce: As for `rotate`.

        Raises:
            PlanOutdatedError: another policy is active than the plan was made for.
            ValueError: it is the plan of another server.
            ForeignUserError: a user was not made by keyleash; nothing was changed.
            RulesRejectedError: a server rejects a rule.
            OperationError (fence-not-verified): a user is not as it was set.
        """
        return self._run.call(fences.apply_users, plan, announce)

    @method
    def identities(self, *identities: str) -> tuple[str, ...]:
        """Return the identities that have an ACL user, or those that are named.

        Raises:
            NotFencedError: one of those that are named has none.
        """
        return self._run.call(fences.fenced_identities, identities)

    @method
    def rotate(
        self,
        *identities: str,
        nodes: Sequence[AnyClient | str] = (),
        hashes: Hashes | None = None,
        announce: Callable[[Sequence[GeneratedPassword]], None] = lambda _passwords: None,
    ) -> PasswordRotation:
        """Add a second password to the users of some identities, or of all.

        Args:
            identities: Their names; all that have users if none is given.
            nodes: Clients or URLs of further servers, such as replicas.
            hashes: As for `plan`; if None, passwords are generated.
            announce: Called with the generated passwords before the first user is changed, to
                store them: if a server fails later, others may have them already.

        Raises:
            NotFencedError: an identity has no ACL user; nothing was changed.
            RotationUnfinishedError: a user has two passwords already; nothing was changed.
            ForeignUserError: a user was not made by keyleash; nothing was changed.
            UsageError: *hashes* is malformed.
        """
        return self._run.call(fences.rotate_passwords, identities, nodes, hashes, announce)

    @method
    def finish_rotation(
        self, *identities: str, nodes: Sequence[AnyClient | str] = ()
    ) -> tuple[str, ...]:
        """Remove the older password of users; return the identities that had one.

        Raises:
            NotFencedError, ForeignUserError: as for `rotate`.
        """
        return self._run.call(fences.finish_rotation, identities, nodes)

    @method
    def remove(
        self, *identities: str, nodes: Sequence[AnyClient | str] = ()
    ) -> tuple[FencedUser, ...]:
        """Delete the users of some identities, or of all, which closes their connections.

        Returns:
            The deleted users.

        Raises:
            NotFencedError: an identity has no ACL user; nothing was changed.
            ForeignUserError: a user was not made by keyleash, and remains; others were deleted.
        """
        return self._run.call(fences.remove_users, identities, nodes)


class VaultOperations(Noun[F]):
    """Random prefixes of all keys: `Operator.vault`.

    Agents are suspended while prefixes change. An interrupted change is continued by the same call.

    Common arguments: *nodes* are clients or URLs of further servers, such as replicas, whose ACL
    users change as well. *progress* is called with the number of scanned keys and their total;
    changes of prefixes first call it with (0, None), before anything is written.

    Raises:
        OperationError (vault): the server is sealed or not, or another change was begun.
        VaultConflictError: a key exists inside and outside the vault.
    """

    @method
    def seal(
        self,
        *,
        adopt: Sequence[str] = (),
        nodes: Sequence[AnyClient | str] = (),
        progress: Progress | None = None,
    ) -> ChangeResult:
        """Move all keys of keyleash, and the keys that match *adopt*, under random prefixes.

        Raises:
            PolicyError: a pattern is invalid.
            OperationError (no-policy): no policy is active.
        """
        return self._run.change_prefixes(
            calls.change, ChangeKind.SEAL, nodes, adopt=adopt, report=progress
        )

    @method
    def rotate(
        self, *, nodes: Sequence[AnyClient | str] = (), progress: Progress | None = None
    ) -> ChangeResult:
        """Replace the prefixes by new ones."""
        return self._run.change_prefixes(calls.change, ChangeKind.ROTATE, nodes, report=progress)

    @method
    def unseal(
        self, *, nodes: Sequence[AnyClient | str] = (), progress: Progress | None = None
    ) -> ChangeResult:
        """Move all keys back to their names."""
        return self._run.change_prefixes(calls.change, ChangeKind.UNSEAL, nodes, report=progress)

    @method
    def adopt(self, *patterns: str, progress: Progress | None = None) -> int:
        """Move keys that match into the vault; return their number."""
        return self._run.call(adopt_keys, patterns, progress)

    @method
    def release(self, *patterns: str, progress: Progress | None = None) -> int:
        """Move keys that match out of the vault; return their number."""
        return self._run.call(release_keys, patterns, progress)
