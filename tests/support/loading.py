"""Load a policy in one call, without the consent that `keyleash load` asks for."""

from __future__ import annotations

from typing import Any

from keyleash.operator.load.activate import LoadResult, activate_policy
from keyleash.operator.load.compile import prepare_policy
from keyleash.store.store import Store


def load_policy(
    store: Store, document: str, *, allow_removal: bool = False, **options: Any
) -> LoadResult:
    """Prepare and activate a policy.

    Args:
        options: Those of `prepare_policy`.
    """
    prepared = prepare_policy(store, document, **options)
    return activate_policy(store, prepared, allow_removal=allow_removal)
