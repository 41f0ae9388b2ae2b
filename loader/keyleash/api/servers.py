"""Random prefixes of keys for operators."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.api import calls
from keyleash.operations import F, Noun, method
from keyleash.results import Progress
from keyleash.store.clients import AnyClient
from keyleash.store.prefixes import ChangeKind
from keyleash.vault import ChangeResult, adopt_keys, release_keys


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

    @method()
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

    @method()
    def rotate(
        self, *, nodes: Sequence[AnyClient | str] = (), progress: Progress | None = None
    ) -> ChangeResult:
        """Replace the prefixes by new ones."""
        return self._run.change_prefixes(calls.change, ChangeKind.ROTATE, nodes, report=progress)

    @method()
    def unseal(
        self, *, nodes: Sequence[AnyClient | str] = (), progress: Progress | None = None
    ) -> ChangeResult:
        """Move all keys back to their names."""
        return self._run.change_prefixes(calls.change, ChangeKind.UNSEAL, nodes, report=progress)

    @method()
    def adopt(self, *patterns: str, progress: Progress | None = None) -> int:
        """Move keys that match into the vault; return their number."""
        return self._run.call(adopt_keys, patterns, progress)

    @method()
    def release(self, *patterns: str, progress: Progress | None = None) -> int:
        """Move keys that match out of the vault; return their number."""
        return self._run.call(release_keys, patterns, progress)
