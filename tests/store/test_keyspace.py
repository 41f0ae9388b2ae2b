"""Names of control keys on one server and on a cluster."""

from __future__ import annotations

from keyleash.store.keyspace import Keyspace


def test_names_on_one_server_have_no_hash_tag() -> None:
    """One server needs none."""
    assert Keyspace().state("agent") == "keyleash:state:agent"
    assert Keyspace().guard("agent") == "keyleash:guard:agent"


def test_all_names_of_a_home_have_its_hash_tag() -> None:
    """Scripts of operators use many of them at once, so all must be in one slot."""
    keys = Keyspace().at_home()
    assert keys.state("agent") == "keyleash:{kl}:state:agent"
    assert keys.guard("agent") == "keyleash:{kl}:guard:agent"


def test_names_of_a_shard_have_its_hash_tag_but_for_guard_records() -> None:
    """Guard records are at the home alone."""
    keys = Keyspace().at_shard("a7")
    assert keys.audit("agent") == "keyleash:{a7}:audit:agent"
    assert keys.guard("agent") == "keyleash:{kl}:guard:agent"
