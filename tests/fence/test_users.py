"""Creating, updating and deleting ACL users by policy; other users are not touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.exceptions import ResponseError

from keyleash.errors import ForeignUserError
from keyleash.fence.acl import acl_glob, may_reach
from keyleash.fence.acl_steps import AclStepKind
from keyleash.fence.desired import desired_users
from keyleash.fence.rotate import add_passwords, drop_old_passwords
from keyleash.fence.servers import FencedUser
from keyleash.operator.load.compile import prepare_policy
from keyleash.policy.patterns import parse_pattern
from keyleash.store.fences import read_records
from keyleash.store.store import Store
from keyleash.store.users import may
from support.errors import raises_code
from support.fences import FencedLeash
from support.leash import NAMES, grant, policy
from support.servers import find_server_binaries

ALL: dict[str, Any] = {"grants": [grant("read", "write", keys="a:*")]}


def hows(leash: FencedLeash, **options: Any) -> dict[str, AclStepKind]:
    return {step.identity: step.kind for step in leash.fence(**options).steps}


def test_apply_is_idempotent(leash: FencedLeash) -> None:
    """A second run changes no user and logs no event."""
    leash.load(one=ALL, two=ALL)
    assert hows(leash) == {"one": AclStepKind.CREATED, "two": AclStepKind.CREATED}
    users, events = leash.admin.acl_list(), leash.admin.xlen(NAMES.control)

    assert hows(leash) == {"one": AclStepKind.UNCHANGED, "two": AclStepKind.UNCHANGED}
    assert leash.admin.acl_list() == users
    assert leash.admin.xlen(NAMES.control) == events


@pytest.mark.parametrize(
    "words",
    [
        ["~*"], ["+keys"], ["+@all"], ["nopass"], ["off"], ["-evalsha"], [">another"],
        ["(+flushall)"], ["clearselectors"], ["&*"], ["resetpass"], ["allcommands", "allkeys"],
    ],
)  # fmt: skip
def test_apply_reverts_changes_by_others(embedded: Any, words: list[str]) -> None:
    """The user has exactly the rules of the policy again."""
    leash = FencedLeash(embedded)
    leash.load(one=ALL)
    leash.fence()
    before = leash.admin.acl_getuser("one")
    leash.admin.execute_command("ACL", "SETUSER", "one", *words)

    assert hows(leash) == {"one": AclStepKind.CHANGED}
    assert leash.admin.acl_getuser("one") == before


def test_foreign_user_is_an_error(leash: FencedLeash) -> None:
    """No user is created then; the conflict of names must be resolved first."""
    leash.load(one=ALL, two=ALL)
    leash.admin.execute_command("ACL", "SETUSER", "two", "on", ">theirs", "~*", "+get")
    before = leash.admin.acl_list()

    with pytest.raises(ForeignUserError, match="`two`"):
        leash.fence()
    assert leash.admin.acl_list() == before
    assert read_records(leash.store) == {}


@pytest.fixture
def other_database(leash: FencedLeash) -> FencedLeash:
    """Database 1 of the same server, with another policy."""
    other = FencedLeash(leash.server)
    other.admin = leash.server.client(db=1)
    return other


def test_user_of_a_policy_in_another_database_is_foreign(
    leash: FencedLeash, other_database: FencedLeash
) -> None:
    """All databases share ACL users, so each name can be fenced in one database only."""
    leash.load(one=ALL)
    leash.fence()
    agent = leash.agent("one")
    assert agent.set("a:1", "x")
    other_database.load(one=ALL, two=ALL)
    before = leash.admin.acl_list()

    with pytest.raises(ForeignUserError, match=r"`one` of one: .* policy in database 0"):
        other_database.fence()
    servers = other_database.fenced_servers()
    for rotate in (
        lambda: add_passwords(servers, {"one": "0" * 64}),
        lambda: drop_old_passwords(servers, ["one"]),
    ):
        with pytest.raises(ForeignUserError, match=r"`one` of one: .* policy in database 0"):
            rotate()
    assert leash.admin.acl_list() == before
    assert read_records(Store(other_database.admin, NAMES)) == {}
    assert agent.get("a:1") == b"x"
    assert leash.agent("one").get("a:1") == b"x"
    assert hows(leash) == {"one": AclStepKind.UNCHANGED}


def test_identities_of_other_names_are_fenced_in_both_databases(
    leash: FencedLeash, other_database: FencedLeash
) -> None:
    """Each policy manages only its own users."""
    leash.load(one=ALL)
    leash.fence()
    other_database.load(two=ALL)
    assert hows(other_database) == {"two": AclStepKind.CREATED}
    agents = [leash.agent("one"), other_database.agent("two", db=1)]
    for agent in agents:
        assert agent.set("a:1", "x")

    leash.load(one=ALL, two=ALL)
    with pytest.raises(ForeignUserError, match="policy in database 1"):
        leash.fence()
    leash.load(one={"grants": [grant("read", keys="a:*")]})
    other_database.load(one=ALL, two={"grants": [grant("read", keys="a:*")]})
    for agent in agents:
        assert agent.get("a:1") == b"x"
    assert hows(leash) == {"one": AclStepKind.UNCHANGED}


@pytest.mark.parametrize("words", [["+@all"], ["+select"], ["nopass"], ["off"], [">another"]])
def test_changed_user_in_database_1_is_recognized_by_its_password(
    embedded: Any, words: list[str]
) -> None:
    """Its rules may no longer name the database."""
    leash = FencedLeash(embedded)
    leash.admin = embedded.client(db=1)
    leash.load(one=ALL)
    leash.fence()
    before = leash.admin.acl_getuser("one")
    leash.admin.execute_command("ACL", "SETUSER", "one", *words)

    assert hows(leash) == {"one": AclStepKind.CHANGED}
    assert leash.admin.acl_getuser("one") == before


def test_identity_whose_patterns_match_control_keys_is_not_fenced(leash: FencedLeash) -> None:
    """ACLs cannot exclude these keys; an operator may override this."""
    leash.load(one=ALL, wide={"grants": [grant("read", keys="*")]})

    assert hows(leash) == {"one": AclStepKind.CREATED, "wide": AclStepKind.HELD}
    assert leash.admin.acl_getuser("wide") is None
    assert hows(leash, wide=("wide",)) == {
        "one": AclStepKind.UNCHANGED,
        "wide": AclStepKind.CREATED,
    }
    # From then on it is looked after like any other.
    assert hows(leash) == {"one": AclStepKind.UNCHANGED, "wide": AclStepKind.UNCHANGED}


@pytest.mark.parametrize(
    ("pattern", "reaches"),
    [
        ("*", True), ("{x}", True), ("{x}:{y}", True), ("key*", True), ("keyleash:state:one", True),
        ("keyleash*", True), ("k{x}:b", True), ("keyleash", False), ("a:*", False),
        ("keyleashes:*", False), ("keyles:{x}", False), ("a{x}", False),
    ],
)  # fmt: skip
def test_may_reach_follows_the_glob(pattern: str, reaches: bool) -> None:
    """A capture is one segment to a guard, and any text to a server."""
    assert may_reach(parse_pattern(pattern), "keyleash:") == reaches


@pytest.mark.parametrize(
    ("pattern", "glob"),
    [
        ("a:{id}:b", "a:*:b"), ("a*", "a*"), ("a?[b]\\", "a\\?\\[b\\]\\\\"), ("{{a}}*", "{a}*"),
        ("a)", "a[)]"), ("(a)b", "(a)b"), ("é:*", "é:*"),
    ],
)  # fmt: skip
def test_pattern_is_translated_to_a_glob(pattern: str, glob: str) -> None:
    """Special characters are escaped."""
    assert acl_glob(parse_pattern(pattern)) == glob


@pytest.mark.parametrize("pattern", ["a b:*", "a\tb", 'say"', "it's", "a\n", "\x7f", "a\u00a0b"])
def test_pattern_that_acl_rules_cannot_express_is_an_error(pattern: str) -> None:
    """Servers split rules at blanks."""
    with raises_code("unsayable-pattern", match="ACL rules cannot express"):
        acl_glob(parse_pattern(pattern))


def test_load_with_an_inexpressible_pattern_activates_nothing(leash: FencedLeash) -> None:
    """For fenced identities only; others may use any pattern."""
    leash.load(one=ALL)
    leash.fence()
    before = leash.admin.acl_list()

    with raises_code("unsayable-pattern"):
        leash.load(one={"grants": [grant("read", keys="a b")]})
    assert leash.agent("one").set("a:1", "x")
    assert leash.admin.acl_list() == before
    leash.load(one=ALL, two={"grants": [grant("read", keys="a b")]})
    assert leash.agent("one").set("a:1", "x")


def test_inactive_policy_is_an_error(leash: FencedLeash) -> None:
    """Its users could call no guard."""
    leash.load(one=ALL)
    other = policy(one={"grants": [grant("read", keys="a:*")]})
    guards = prepare_policy(leash.store, other).guards

    with raises_code("not-active-policy"):
        desired_users(leash.fenced_servers(), guards)


def test_users_are_created_on_each_server(leash: FencedLeash, real_servers: Any) -> None:
    """ACLs are not replicated; passwords are the same everywhere."""
    leash.load(one=ALL)
    other = "valkey-8.1.1" if "redis" in leash.server.label else "redis-8.0.2"
    if other not in find_server_binaries():
        pytest.skip(f"no {other}")
    with real_servers.lend(other) as second:
        outcome = leash.fence(second.client())
        assert len(outcome.steps) == 2
        assert not leash.fence(second.client()).changed
        login = second.client(**leash.credentials("one"))
        assert login.get("a:1") is None


class RejectingClient:
    """A client of a server that rejects first arguments in ACL rules."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def execute_command(self, *words: Any) -> Any:
        is_rule = words[:2] == ("ACL", "SETUSER")
        if is_rule and any("evalsha|" in word for word in words):
            raise ResponseError("Error in ACL SETUSER modifier '(+evalsha|0 ~*)': no such rule")
        return self._client.execute_command(*words)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def test_server_that_rejects_digests_gets_the_bare_command(leash: FencedLeash) -> None:
    """The outcome lists these users, which may call every loaded script."""
    leash.load(one=ALL, two=ALL)
    leash.admin = RejectingClient(leash.admin)
    outcome = leash.fence()

    assert outcome.without_digests == (FencedUser("one", "one"), FencedUser("one", "two"))
    agent = leash.agent("one")
    assert agent.set("a:1", "x")
    again = leash.fence()
    assert not again.changed
    assert again.without_digests == outcome.without_digests
    leash.load(one={"grants": [grant("read", "write", keys="b:*")]}, two=ALL)
    assert agent.set("b:1", "x")
    # A server that takes them again gets them again.
    leash.admin = leash.server.client()
    assert leash.fence().without_digests == ()
    assert not may(leash.admin, "one", "EVALSHA", leash.digest("two"), "0")
    assert agent.set("b:1", "x")


def test_other_error_of_a_server_is_raised(leash: FencedLeash) -> None:
    """Only a rejected digest widens the rules."""

    class Failing(RejectingClient):
        def execute_command(self, *words: Any) -> Any:
            if words[:2] == ("ACL", "SETUSER"):
                raise ResponseError("something else")
            return self._client.execute_command(*words)

    leash.load(one=ALL)
    leash.admin = Failing(leash.admin)
    with pytest.raises(ResponseError, match="something else"):
        leash.fence()


@pytest.mark.parametrize(
    "meddle",
    [
        lambda words: [word for word in words if not word.startswith("(+xadd")],
        lambda words: [*words, "(+scan)"],
        lambda words: ["off" if word == "on" else word for word in words],
        lambda words: [*words, "nopass"],
    ],
)
def test_user_that_differs_after_apply_is_an_error(
    embedded: Any, monkeypatch: pytest.MonkeyPatch, meddle: Callable[[list[str]], list[str]]
) -> None:
    """Users are verified by GETUSER and DRYRUN."""
    leash = FencedLeash(embedded)
    leash.load(one=ALL)

    def other(client: Any, name: str, words: Any) -> None:
        client.execute_command("ACL", "SETUSER", name, *meddle(list(words)))

    monkeypatch.setattr("keyleash.fence.apply.set_user", other)
    with raises_code("fence-not-verified", match="`one`"):
        leash.fence()


def test_notes_list_the_differences_from_the_policy(leash: FencedLeash) -> None:
    """Left-out commands, deny rules, before-images and overlapping patterns."""
    leash.load(
        one={
            "grants": [grant("read", keys="a:{x}:b*"), grant("write", keys="a:b:*")],
            "deny": [{"keys": ["a:b:secret"]}, {"keys": ["z"]}],
            "audit": {"before_images": {"max_bytes": "1kb"}},
        }
    )
    guards = prepare_policy(leash.store, _document(leash)).guards
    (user,) = desired_users(leash.fenced_servers(), guards)
    notes = {(note.code, note.what) for note in user.fence.notes}

    assert ("left-out", "COPY") in notes
    assert ("left-out", "SCAN") not in notes
    assert ("deny", "`a:b:secret`") in notes
    assert ("deny", "`z`") not in notes
    assert ("images", "`a:b:*`") in notes
    assert ("split", "`a:{x}:b*` with `a:b:*`") in notes


def test_note_names_access_to_database_0(leash: FencedLeash, other_database: FencedLeash) -> None:
    """Connections begin there, and ACL rules apply to all databases."""
    other_database.load(one=ALL)
    guards = prepare_policy(leash.store, _document(other_database)).guards
    (user,) = desired_users(other_database.fenced_servers(), guards)
    other_database.fence()

    assert ("database", "`database 1`") in {(note.code, note.what) for note in user.fence.notes}
    assert other_database.direct("one").set("a:1", "x")
    assert leash.admin.get("a:1") == b"x"


def _document(leash: FencedLeash) -> str:
    document = leash.admin.hget(NAMES.policy, "document")
    assert isinstance(document, bytes)
    return document.decode()
