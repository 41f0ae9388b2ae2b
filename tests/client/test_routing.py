"""Where calls go on a cluster, and what follows from each answer, without a server."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.client.actions import AtHome, Flow, Send
from keyleash.client.calls import Call
from keyleash.client.node_calls import ClusterSession, FetchLease, ShardCaller, fetch_lease
from keyleash.client.retries import mark_sent
from keyleash.client.routing import (
    HOME_SLOT,
    MAX_REDIRECTS,
    ROUTE_PAUSES_S,
    Route,
    Step,
    Tags,
    is_answer,
    is_redirect,
    one_slot,
    retry_pauses,
    slot_of,
)
from keyleash.commands import load_table
from keyleash.errors import (
    BudgetExhaustedError,
    CrossSlotError,
    LeaseNeededError,
    SlotNotServedError,
    TokenRevokedError,
)
from keyleash.errors.sentences import reason_of
from keyleash.store.keyspace import script_digest
from keyleash.store.placement import key_slot, tag_of
from keyleash.store.records import GuardRecord
from keyleash.store.token import new_token
from keyleash.store.wire import BatchMode

A, B, C = (SimpleNamespace(name=f"10.0.0.1:{port}") for port in (1, 2, 3))
MOVED = MovedError("5 10.0.0.1:2")
ASK = AskError("5 10.0.0.1:2")
NON_LOCAL = ResponseError(
    "Script attempted to access a non local key in a cluster node script: 89, on @user_script:1."
)
NON_LOCAL_9 = ResponseError("Attempted to access a non local key in a cluster node")
REHASHING = ResponseError(
    "Script was aborted in script because undeclared keys were accessed during rehashing of the"
    " slot"
)


def shards_of(*nodes: Any) -> Tags:
    """The tags of nodes with equal parts of the slots."""
    slots = {slot: [nodes[slot * len(nodes) // 16384]] for slot in range(16384)}
    return Tags(lambda: slots)


def run(flow: Flow, outcomes: Iterable[Any]) -> tuple[list[Any], Any]:
    """Drive a flow with *outcomes*; return its actions, and its result or error."""
    actions: list[Any] = []
    given = iter(outcomes)
    try:
        action = next(flow)
        while True:
            actions.append(action)
            outcome = next(given)
            follow = flow.throw if isinstance(outcome, Exception) else flow.send
            action = follow(outcome)
    except StopIteration as end:
        return actions, end.value
    except Exception as error:
        return actions, error


def after(error: Exception, *, is_asking: bool = False, is_home: bool = False) -> Step:
    """Return what follows from the error of the first attempt, on node A."""
    route = Route(shards_of(A, B), is_home=is_home)
    route.step = Step(ask=ASK if is_asking else None)
    return route.after(error, A)


def test_moved_call_goes_to_the_node_that_the_slot_is_moved_to() -> None:
    """The map is changed first, so the slot's node is looked up again."""
    assert after(MOVED) == Step(moved=MOVED)


def test_asked_call_goes_to_the_other_node_once_with_asking() -> None:
    """The next call goes to the slot's node again: the slot has not moved yet."""
    assert after(ASK) == Step(ask=ASK)


@pytest.mark.parametrize("error", [TryAgainError("x"), NON_LOCAL, NON_LOCAL_9, REHASHING])
def test_call_behind_asking_is_tried_again_at_the_node_of_the_slot(error: Exception) -> None:
    """A key of the slot has not arrived: as TRYAGAIN."""
    assert after(error, is_asking=True) == Step(pause_s=ROUTE_PAUSES_S[0])


@pytest.mark.parametrize(
    ("error", "step"),
    [
        (TryAgainError("Multiple keys request during rehashing of slot"), {}),
        (ClusterDownError("x"), {"refreshes": True, "failed": A.name}),
        (ReadOnlyError("x"), {"refreshes": True, "failed": A.name}),
        (RedisConnectionError("refused"), {"refreshes": True, "failed": A.name}),
    ],
)
def test_call_that_is_to_be_tried_again_is_paused_within_bounds(
    error: Exception, step: dict[str, Any]
) -> None:
    """The pauses grow; after the last the error is raised. During a failover slots are read again,
    until a replica has taken over."""
    route = Route(shards_of(A, B))

    steps = [route.after(error, A) for _ in (*ROUTE_PAUSES_S, None)]

    assert steps[:-1] == [Step(**step, pause_s=pause_s) for pause_s in ROUTE_PAUSES_S]
    assert steps[-1] == Step(**step, final=error)


def test_next_control_slot_is_used_if_control_keys_stay_out_of_reach() -> None:
    """At first the control slot may have moved; then its keys are moving, one by one."""
    shards = shards_of(A, B)
    route, tags = Route(shards), []

    for error in (NON_LOCAL, NON_LOCAL_9):
        tags.append(shards.tag(A.name))
        assert route.after(error, A) == Step(refreshes=True)

    assert [*tags, shards.tag(A.name)] == [tag_of(0), tag_of(0), tag_of(4096)]


@pytest.mark.parametrize("error", [ASK, TryAgainError("x"), NON_LOCAL, REHASHING])
def test_home_that_moves_is_waited_for_and_never_asked(error: Exception) -> None:
    """Behind ASKING missing keys of the home would look empty."""
    assert after(error, is_home=True) == Step(pause_s=ROUTE_PAUSES_S[0])


def test_call_that_may_have_run_is_never_sent_again() -> None:
    """The slots are read again, for the next call."""
    error = mark_sent(RedisConnectionError("lost"))

    assert after(error) == Step(refreshes=True, failed=A.name, final=error)


@pytest.mark.parametrize(
    "error", [ResponseError("WRONGTYPE"), NoPermissionError("x"), ValueError(), KeyError()]
)
def test_other_errors_are_raised(error: Exception) -> None:
    """They are those of the command."""
    with pytest.raises(type(error)) as caught:
        after(error)
    assert caught.value is error


@pytest.mark.parametrize("error", [MOVED, ASK, NON_LOCAL])
def test_nodes_that_refer_to_each_other_end_in_an_error_that_explains(error: Exception) -> None:
    """A call is not made for ever: at first without pauses, then with them."""
    route = Route(shards_of(A, B))

    steps = [route.after(error, A) for _ in range(MAX_REDIRECTS)]
    paused = [route.after(error, A) for _ in ROUTE_PAUSES_S]
    final: Any = route.after(error, A).final

    assert [step.pause_s for step in (*steps, *paused)] == [*[0] * MAX_REDIRECTS, *ROUTE_PAUSES_S]
    assert isinstance(final, SlotNotServedError)
    assert str(error) in final.reason
    assert "keyleash doctor" in str(final)


@pytest.mark.parametrize(
    "error", [MOVED, TryAgainError("x"), ClusterDownError("x"), RedisTimeoutError("x")]
)
def test_home_out_of_reach_is_explained_and_not_tried_again_by_the_call(error: Exception) -> None:
    """The call that needs a lease would otherwise fetch it as often as it is tried itself."""
    route = Route(shards_of(A, B), is_home=True, pauses=iter(()))
    for _ in range(MAX_REDIRECTS * isinstance(error, MovedError)):
        route.after(error, A)
    final = route.after(error, A).final

    assert isinstance(final, SlotNotServedError)
    assert "home" in str(final)
    with pytest.raises(SlotNotServedError):
        after(final)
    assert is_answer(final)


def test_attempts_that_take_long_use_up_the_pauses() -> None:
    """Nodes that never answer cost the time for waiting, not a timeout for each pause."""
    now_s = [0.0]
    pauses = retry_pauses(lambda: now_s[0])
    route = Route(shards_of(A, B), pauses=pauses)
    steps: list[Step] = []

    while not steps or steps[-1].final is None:
        steps.append(route.after(RedisTimeoutError("x"), A))
        now_s[0] += 1 + steps[-1].pause_s

    assert len(steps) == 5


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MOVED, True),
        (ASK, True),
        (NON_LOCAL, True),
        (LeaseNeededError({"request": "r"}), True),
        (ClusterDownError("x"), True),
        (ResponseError("WRONGTYPE"), False),
        (RedisConnectionError("lost"), False),
        (None, False),
    ],
)
def test_redirect_is_a_reply_after_which_nothing_ran(error: Any, expected: bool) -> None:
    """Only of such a command of a batch another call is made."""
    assert is_redirect(error) is expected


def test_every_node_has_the_tag_of_its_first_slot_in_reversed_order() -> None:
    """The same that every other client finds."""
    shards = shards_of(A, B, C)

    assert [shards.tag(node.name) for node in (A, B, C)] == [
        tag_of(slot) for slot in (0, 8192, 12288)
    ]


def test_skipped_control_slot_is_used_again_when_it_has_come_back() -> None:
    """Its credit is still there."""
    slots = {slot: [A] for slot in range(16384)}
    shards = Tags(lambda: slots)
    shards.skip(A.name)
    skipped = shards.tag(A.name)
    slots = {**slots, 0: [B]}
    assert shards.tag(A.name) == skipped

    slots = {**slots, 0: [A]}

    assert shards.tag(A.name) == tag_of(0)


def test_tag_changes_when_its_control_slot_has_moved() -> None:
    """redis-py notes a moved slot in the map that it has."""
    slots = {slot: [A] for slot in range(16384)}
    shards = Tags(lambda: slots)
    assert shards.tag(A.name) == tag_of(0)

    slots[0] = [B]

    assert shards.tag(A.name) != tag_of(0)
    assert shards.tag(B.name) == tag_of(0)


def test_node_without_slots_is_to_be_tried_again() -> None:
    """A node that only imports its first slot has no place for control keys."""
    shards = shards_of(A)

    with pytest.raises(TryAgainError, match="has no slot"):
        shards.tag(C.name)
    assert not shards.has_tag(C.name)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("GET", "a{b}c"), b"b"),
        (("XGROUP CREATE", "s", "g", "$"), b"s"),
        (("EVALSHA", "0" * 40, "1", "k", "x"), b"k"),
        (("XREAD", "COUNT", 1, "STREAMS", "s", "0"), b"s"),
        (("PING",), None),
    ],
)
def test_slot_is_that_of_the_first_key(words: Any, key: bytes | None) -> None:
    """Of a call without keys there is none."""
    expected = None if key is None else key_slot(key)

    assert slot_of(load_table(), lambda word: str(word).encode(), words) == expected


def test_transaction_has_one_slot() -> None:
    """Of a transaction without keys it is that of the home."""
    assert one_slot([7, None, 7]) == 7
    assert one_slot([None]) == HOME_SLOT
    with pytest.raises(CrossSlotError, match="hash tag"):
        one_slot([7, 8])


# Leases.

TOKEN = new_token("agent")
SOURCE = "return 1"
LEASE = script_digest(SOURCE)
RECORD = GuardRecord("a" * 40, "b" * 40, "policy", 1, lease=LEASE)
FIELDS: dict[bytes, bytes] = {
    name.encode(): str(int(value) if isinstance(value, bool) else value).encode()
    for name, value in ((name, getattr(RECORD, name)) for name in GuardRecord.__dataclass_fields__)
}


def caller_of(session: ClusterSession) -> ShardCaller:
    caller = ShardCaller(session, 0, lambda: None, is_resp3=False, clock=lambda: 0)
    caller.tag = lambda: "abc"
    return caller


@pytest.fixture
def session() -> ClusterSession:
    session = ClusterSession(TOKEN)
    session.accept_record(FIELDS)
    return session


@pytest.fixture
def call(session: ClusterSession) -> Call:
    """A call that was made once."""
    call = Call([("SET", "k", "v")])
    caller_of(session).request(call)
    return call


def test_records_are_at_the_home(session: ClusterSession) -> None:
    """In the slot that every client knows."""
    assert session.record_request() == ("HGETALL", "keyleash:{kl}:guard:agent")
    assert session.source_request("d")[1] == "keyleash:{kl}:source:agent"


def test_last_word_of_each_call_is_the_tag_of_its_node(session: ClusterSession) -> None:
    """Everything else is as on one server."""
    caller = caller_of(session)
    single, batch = Call([("SET", "k", "v")]), Call([("GET", "k")], BatchMode.EACH)
    single.correlation = batch.correlation = "id"

    words = caller.request(single), caller.request(batch)

    assert words[0] == (*("EVALSHA", "a" * 40, "1", "k", TOKEN, "id"), *("SET", "k", "v"), "abc")
    assert words[1] == (
        *("EVALSHA", "b" * 40, "1", "k", TOKEN, "id"),
        *("each", "2", "GET", "k"),
        "abc",
    )


def test_call_is_repeated_with_the_voucher_that_it_lacks(session: ClusterSession) -> None:
    """Once: the next call of the connection has none."""
    caller, call = caller_of(session), Call([("SET", "k", "v")])
    flow = caller.reply_to(call)

    assert next(flow) == Send([call])
    caller.request(call)
    flow.send(None)
    need = flow.throw(ResponseError("LEASH LEASE_NEEDED request=abc:1:mac"))
    assert need == FetchLease("abc:1:mac", call, None)
    assert flow.send("voucher") == Send([call])
    assert caller.request(call)[-1] == "voucher"
    assert caller.request(call)[-1] == "abc"
    flow.send(None)
    with pytest.raises(StopIteration) as end:
        flow.send(b"OK")
    assert end.value.value == b"OK"


def test_voucher_that_did_not_help_is_fetched_again(session: ClusterSession) -> None:
    """The identity's epoch may have changed while it was on its way."""
    caller, call = caller_of(session), Call([("SET", "k", "v")])
    need = ResponseError("LEASH LEASE_NEEDED request=abc:1:mac")

    actions, result = run(
        caller.reply_to(call), [None, need, "first", None, need, "second", None, b"OK"]
    )

    fetched = [action for action in actions if isinstance(action, FetchLease)]
    assert [action.used for action in fetched] == [None, "first"]
    assert result == b"OK"


@pytest.mark.parametrize(
    ("voucher", "is_same", "reason"),
    [
        ("v", True, "accepts no voucher"),
        ("v", False, "other calls used up each lease"),
        ("", True, "outdated"),
    ],
)
def test_call_is_not_repeated_for_ever(
    session: ClusterSession, voucher: str, is_same: bool, reason: str
) -> None:
    """A server that never takes a voucher must not keep a client busy; the error says why."""
    outcomes: list[Any] = [None]
    for number in range(99):
        request = f"abc:{1 if is_same else number}:mac"
        outcomes += [ResponseError(f"LEASH LEASE_NEEDED request={request}"), voucher, None]

    _, result = run(caller_of(session).reply_to(Call([("GET", "k")])), outcomes)

    assert isinstance(result, LeaseNeededError)
    assert reason in str(result)
    assert "load the policy again" in reason_of(result).operator


def test_watched_call_ends_its_watch_and_leaves_the_voucher(session: ClusterSession) -> None:
    """Its caller watches again; the next call of the connection brings the voucher."""
    caller, call = caller_of(session), Call([("SET", "k", "v")], BatchMode.ALL)
    call.is_watched = True
    need = ResponseError("LEASH LEASE_NEEDED request=abc:1:mac")

    _, result = run(caller.reply_to(call), [None, b"OK", b"QUEUED", [need], "voucher"])

    assert result is None
    assert caller.request(Call([("GET", "k")]))[-1] == "voucher"


def test_lease_is_fetched_with_the_request_and_the_call(
    session: ClusterSession, call: Call
) -> None:
    """The home records a denial with the command and its key."""
    flow = fetch_lease(session, FetchLease("request", call, None))

    action = next(flow)

    assert isinstance(action, AtHome)
    assert callable(action.words)
    assert action.words() == (
        *("EVALSHA", LEASE, "1", "keyleash:{kl}:guard:agent"),
        *(TOKEN, call.correlation, "request", "SET", "k"),
    )
    with pytest.raises(StopIteration) as end:
        flow.send(b"voucher")
    assert end.value.value == b"voucher"


def test_outdated_request_gets_no_voucher(session: ClusterSession, call: Call) -> None:
    """Another client was faster: the node is asked again."""
    stale = ResponseError("LEASH LEASE_REFUSED reason=stale")

    _, result = run(fetch_lease(session, FetchLease("request", call, None)), [stale])

    assert result == b""


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("LEASH BUDGET_EXHAUSTED limit=b resets_at_ms=1", BudgetExhaustedError),
        ("LEASH TOKEN_REVOKED identity=agent", TokenRevokedError),
    ],
)
def test_denial_of_the_home_is_that_of_the_call(
    session: ClusterSession, call: Call, reply: str, kind: type
) -> None:
    """As if the guard itself had denied it."""
    _, result = run(fetch_lease(session, FetchLease("r", call, None)), [ResponseError(reply)])

    assert type(result) is kind


def test_lost_lease_script_is_loaded_again_at_the_home(session: ClusterSession, call: Call) -> None:
    """From the source that is stored there."""
    flow = fetch_lease(session, FetchLease("r", call, None))

    actions, result = run(
        flow, [NoScriptError("x"), FIELDS, SOURCE.encode(), LEASE.encode(), b"voucher"]
    )

    assert [action.words for action in actions[1:4]] == [
        ("HGETALL", "keyleash:{kl}:guard:agent"),
        ("HGET", "keyleash:{kl}:source:agent", LEASE),
        ("SCRIPT", "LOAD", SOURCE),
    ]
    assert result == b"voucher"
