"""Sealing, rotating and unsealing preserve all data, and no agent sees a part of a change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import keyleash
from keyleash.audit.operator_actions import read_control
from keyleash.errors import VaultConflictError
from keyleash.operator.load.activate import load_policy
from keyleash.operator.suspension import freeze, thaw
from keyleash.operator.tokens.issue import issue_token
from keyleash.operator.tokens.list import list_tokens
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import ChangeKind, read_seal, server_keyspace
from keyleash.store.store import Store
from keyleash.vault import change as vault_change
from keyleash.vault.change import change_prefixes, rotate, seal, unseal
from support.errors import raises_code
from support.leash import NAMES, Leash, grant, policy
from support.servers import RealServer
from vault.conftest import ALL


class Killed(BaseException):
    """Stands for the end of the process."""


def names(leash: Leash) -> set[str]:
    return {key.decode() for key in leash.admin.keys("*")}


def begin(leash: Leash, change: ChangeKind) -> None:
    """Prepare the server for *change*."""
    if change is not ChangeKind.SEAL:
        seal(leash.store, adopt=["a:*"])


@pytest.mark.parametrize("change", ChangeKind)
def test_change_preserves_all_records_and_data(leash: Leash, change: ChangeKind) -> None:
    """The same clients continue without a restart."""
    first, second = leash.agent("one"), leash.agent("two")
    for number in range(10):
        first.set(f"a:{number}", number, ex=1000)
    with pytest.raises(keyleash.KeyNotGrantedError):
        first.get("b")
    freeze(leash.store, "two", reason="x")
    begin(leash, change)
    adopt = ["a:*"] if change is ChangeKind.SEAL else []
    before = leash.follow()
    tokens, events = list_tokens(leash.store), leash.events("one")
    state = leash.state("one")

    result = change_prefixes(Store(leash.admin), change, adopt=adopt)

    after = leash.follow()
    assert after != before
    assert not result.resumed
    assert list_tokens(leash.store) == tokens
    assert leash.events("one") == events
    assert leash.refusals("one") == 1
    assert leash.state("one")[8:] == state[8:]
    assert first.get("a:7") == b"7"
    assert 990 < first.ttl("a:7") <= 1000
    assert sorted(first.scan_iter("a:*")) == [b"a:%d" % number for number in range(10)]
    with pytest.raises(keyleash.SuspendedError):
        second.get("a:7")
    thaw(leash.store, "two")
    assert second.get("a:7") == b"7"
    # Ten of the twenty calls per day were before the change.
    for _ in range(10):
        first.set("a:1", "x")
    with pytest.raises(keyleash.RateLimitedError):
        first.set("a:1", "x")
    assert change.value in [event.event for event in read_control(Store(leash.admin, after))]


def test_sealed_server_has_few_public_keys(leash: Leash) -> None:
    """Guessed names lead to digests of guards, and to no key of an agent."""
    leash.agent("one").set("a:1", "x")
    leash.admin.set("other", "foreign")
    seal(leash.store, adopt=["a:*"])
    keyspace = leash.follow()

    hidden = (keyspace.prefix, keyspace.vault)
    open_names = {name for name in names(leash) if not name.startswith(hidden)}
    # What stands in the place of a state says to old guards that they are stale.
    left = {NAMES.state("one"), NAMES.state("two"), NAMES.guard("one"), NAMES.guard("two")}
    assert open_names == left | {NAMES.sealed, "other"}
    assert leash.admin.get(NAMES.state("one")) == b"\0"
    assert len(keyspace.prefix) == len(keyspace.vault) == 33
    assert keyspace.prefix != keyspace.vault


def test_unsealing_restores_all_names(leash: Leash) -> None:
    """As if the server had never been sealed."""
    leash.agent("one").set("a:1", "x")
    before = names(leash)
    seal(leash.store, adopt=["a:*"])
    keyspace = leash.follow()
    unseal(leash.store)

    stale = {keyspace.state("one"), keyspace.state("two")}
    assert names(leash) == before | stale
    assert server_keyspace(leash.admin) == Keyspace()


def test_keys_that_are_not_adopted_stay_outside(leash: Leash) -> None:
    """Agents do not find them."""
    agent = leash.agent("one")
    agent.set("a:1", "x")
    seal(leash.store)

    assert agent.get("a:1") is None
    assert leash.admin.get("a:1") == b"x"


def test_rotation_leaves_nothing_under_the_old_prefixes(sealed: Leash) -> None:
    """A disclosed prefix is useless then."""
    agent, old = sealed.agent("one"), sealed.keyspace
    agent.set("a:1", "x")
    rotate(sealed.store)

    left = {name for name in names(sealed) if name.startswith((old.prefix, old.vault))}
    assert left == {old.state("one"), old.state("two")}
    assert agent.get("a:1") == b"x"


def test_tools_find_the_prefixes_by_themselves(sealed: Leash) -> None:
    """No function takes a prefix, and all work as before."""
    admin = sealed.admin
    token = issue_token(Store.open(admin), "one")
    agent = sealed.client(token.token)
    agent.set("a:1", "x")
    assert load_policy(Store.open(admin), policy(one=ALL), allow_removal=True).removed == ("two",)
    assert agent.get("a:1") == b"x"
    assert [item.id for item in revoke(Store.open(admin), token_id=token.id).tokens] == [token.id]
    with pytest.raises(keyleash.TokenRevokedError):
        agent.get("a:1")
    assert not admin.exists(NAMES.policy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (ChangeKind.SEAL, "the server is sealed already"),
        (ChangeKind.ROTATE, "the server is not sealed"),
        (ChangeKind.UNSEAL, "the server is not sealed"),
    ],
)
def test_change_in_the_wrong_state_is_an_error(
    leash: Leash, change: ChangeKind, message: str
) -> None:
    """Nothing is changed."""
    if change is ChangeKind.SEAL:
        seal(leash.store)
    before = names(leash)

    with raises_code("vault", match=message):
        change_prefixes(Store(leash.admin), change)
    assert names(leash) == before


def test_server_without_a_policy_is_not_sealed(embedded: RealServer) -> None:
    """There are no agents."""
    admin = embedded.client()

    with raises_code("no-policy"):
        seal(Store(admin))
    assert admin.keys() == []


def test_unsealing_with_a_taken_name_changes_nothing(sealed: Leash) -> None:
    """No key is overwritten, and no agent is suspended."""
    agent = sealed.agent("one")
    agent.set("a:1", "within")
    sealed.admin.set("a:1", "outside")

    with pytest.raises(VaultConflictError, match="`a:1` exists both") as error:
        unseal(sealed.store)

    assert error.value.keys == (b"a:1",)
    assert read_seal(sealed.admin).change is None
    assert agent.get("a:1") == b"within"
    sealed.admin.delete("a:1")
    unseal(sealed.store)
    assert agent.get("a:1") == b"within"


def test_name_taken_during_a_change_is_a_conflict(
    sealed: Leash, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All other keys are moved; the change continues once the name is free."""
    agent, admin = sealed.agent("one"), sealed.admin
    for number in range(20):
        agent.set(f"a:{number}", "within")

    call_before(monkeypatch, "record_sources", lambda: admin.set("a:7", "outside"))
    with pytest.raises(VaultConflictError, match="`a:7` exists both"):
        unseal(Store(admin))

    with pytest.raises(keyleash.SuspendedError):
        agent.get("a:1")
    assert admin.get("a:1") == b"within"
    assert admin.get("a:7") == b"outside"
    admin.rename("a:7", "b:7")
    assert unseal(Store(admin)).resumed
    assert agent.get("a:7") == b"within"


def call_before(monkeypatch: pytest.MonkeyPatch, step: str, action: Callable[[], object]) -> None:
    """Run *action* before a function that a change calls."""
    function = getattr(vault_change, step)

    def call(*arguments: Any) -> Any:
        action()
        return function(*arguments)

    monkeypatch.setattr(vault_change, step, call)


@pytest.mark.parametrize("step", ["record_sources", "report", "mark_forgeable"])
@pytest.mark.parametrize("change", ChangeKind)
def test_interrupted_change_is_continued(
    leash: Leash, change: ChangeKind, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents work before the switch, are suspended until the end, and never miss a key."""
    agent = leash.agent("one")
    agent.set("a:1", "x")
    begin(leash, change)
    adopt = ["a:*"] if change is ChangeKind.SEAL else []

    def die(*_: object) -> None:
        raise Killed

    def die_while_keys_move(_done: int, total: int | None) -> None:
        if total is not None:
            raise Killed

    report = die_while_keys_move if step == "report" else None
    with monkeypatch.context() as patched:
        if report is None:
            call_before(patched, step, die)
        with pytest.raises(Killed):
            change_prefixes(Store(leash.admin), change, progress=report, adopt=adopt)

    if step == "record_sources":
        assert agent.get("a:1") == b"x"
        assert list_tokens(leash.store)
    elif step == "report":
        with pytest.raises(keyleash.SuspendedError):
            agent.get("a:1")
        with raises_code("vault-changing", match=f"vault {change.value}` is under way"):
            list_tokens(leash.store)
        is_rotation = change is ChangeKind.ROTATE
        other = ChangeKind.UNSEAL if is_rotation else ChangeKind.ROTATE
        with raises_code("vault", match="is unfinished"):
            change_prefixes(Store(leash.admin), other)
    if step != "mark_forgeable":
        assert change_prefixes(Store(leash.admin), change).resumed
    assert agent.get("a:1") == b"x"
    assert read_seal(leash.admin).change is None
    assert [token.identity for token in list_tokens(leash.store)] == ["one"]


def test_concurrent_load_is_not_lost(leash: Leash, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load comes before the change, or is denied."""
    admin = leash.admin

    def load_another() -> None:
        load_policy(Store.open(admin), policy(one=ALL), allow_removal=True)

    with (
        monkeypatch.context() as patched,
        raises_code("activation-conflict", match="no prefix was changed"),
    ):
        call_before(patched, "record_sources", load_another)
        seal(Store(admin))

    assert server_keyspace(admin) == Keyspace()
    assert seal(Store(admin)).resumed
    leash.follow()
    assert leash.agent("one").get("a:1") is None


def test_load_that_began_before_the_switch_is_a_conflict(leash: Leash) -> None:
    """Its guards would use the old prefixes."""
    from keyleash.operator.load.activate import activate_policy
    from keyleash.operator.load.compile import prepare_policy

    before = leash.store
    prepared = prepare_policy(before, policy(one=ALL))
    seal(leash.store)

    with raises_code("activation-conflict"):
        activate_policy(before, prepared)


def test_progress_is_reported_in_steps(leash: Leash) -> None:
    """The report shows that the change continues."""
    with leash.admin.pipeline() as pipe:
        for number in range(3000):
            pipe.set(f"a:{number}", "x")
        pipe.execute()
    reported: list[tuple[int, int | None]] = []

    seal(leash.store, adopt=["a:*"], progress=lambda *progress: reported.append(progress))

    assert len(reported) > 5
    assert reported[0] == (0, None)
    assert max(done for done, _ in reported) >= 3000
    assert all(total >= 3000 for _, total in reported[1:] if total is not None)


def test_removed_identity_retains_its_counts(leash: Leash) -> None:
    """As long as without sealing."""
    leash.agent("two").set("a:1", "x")
    leash.load(one=ALL)
    state, ttl = leash.state("two"), leash.admin.pttl(NAMES.state("two"))
    seal(leash.store)

    keyspace = leash.follow()
    assert leash.state("two") == state
    assert 0 < leash.admin.pttl(keyspace.state("two")) <= ttl
    with pytest.raises(keyleash.NotActiveError):
        leash.client(leash.issue("one").token.replace("one", "two")).get("a:1")


def test_grant_on_all_keys_does_not_reveal_the_control_prefix(sealed: Leash) -> None:
    """A denial of the prefix would reveal it."""
    sealed.load(one={"grants": [grant("read", "write", keys="*")]})
    agent = sealed.agent("one")
    prefix = sealed.keyspace.prefix

    # Within the vault it is a name like any other.
    assert agent.set(f"{prefix}state:one", "x") is True
    assert sealed.admin.strlen(sealed.keyspace.state("one")) > 1
    with pytest.raises(keyleash.KeyDeniedError):
        agent.get("keyleash:sealed")
