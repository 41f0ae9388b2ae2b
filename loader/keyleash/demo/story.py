"""The scenes of the demo. The limits are those of examples/agents.yaml."""

from __future__ import annotations

import time
from collections.abc import Callable

import keyleash
from keyleash.compiler.render import examples_root
from keyleash.demo.stage import DemoStage, Reply, denied
from keyleash.errors import (
    BudgetExhaustedError,
    LeashError,
    OperationError,
    RateLimitedError,
    ReplyCode,
)
from keyleash.servers import EmbeddedCluster
from keyleash.store.placement import SLOTS, key_slot
from keyleash.text import clock_time, counted

READER, RUNNER, RECOVERY = "agent-reader", "agent-runner", "agent-recovery"
STATE_KEY = "agents:jobs:42:state"
CONTEXT_KEY = "agents:context:42"
RESULT_KEY = "agents:jobs:42:result"
LOCK_KEY = "agents:jobs:42:lock"
CHECKPOINT_KEY = "agents:recovery:7:checkpoint"
READ_STATE, READ_CONTEXT = f"GET {STATE_KEY}", f"GET {CONTEXT_KEY}"

BURST = 60
INTERVAL_MS = 100
DAILY_REQUESTS = 5000
DAY_MS = 86_400_000
LOOP_MS = 10_000
"""Upper bound on the duration of the runaway loop."""

NODES = 3
SHARED_BUDGET = 300
CLUSTER_POLICY = f"""
version: 1
identities:
  {RUNNER}:
    kind: machine
    grants: [{{allow: [read, write], keys: ["agents:jobs:{{job_id}}:state"]}}]
    budget: {{requests: {SHARED_BUDGET}/day}}
"""


def load_example(stage: DemoStage) -> None:
    """Activate examples/agents.yaml."""
    path = examples_root() / "agents.yaml"
    result = stage.operator.load(keyleash.Policy.from_file(path))
    count = counted(len(result.identities), "identity")
    stage.check(
        f"keyleash load {path.name}",
        f"activated generation {result.generation}: {count}",
        "activated generation 1: 4 identities",
    )


def prepare(stage: DemoStage) -> None:
    """Load the policy, and issue the tokens."""
    load_example(stage)
    for identity in (READER, RUNNER, RECOVERY):
        stage.issue(identity)


def run_granted(stage: DemoStage) -> None:
    """Write and read a granted key."""
    stage.call(RUNNER, f"SET {STATE_KEY} running", True)
    stage.call(RUNNER, READ_STATE, "running")


def use_other_key(stage: DemoStage) -> None:
    """Read a key of another agent."""
    stage.call(RUNNER, READ_CONTEXT, denied(ReplyCode.KEY_NOT_GRANTED, key=CONTEXT_KEY))


def write_as_reader(stage: DemoStage) -> None:
    """Write with a grant for reading."""
    expected = denied(ReplyCode.CLASS_NOT_GRANTED, class_="write")
    stage.call(READER, f"SET {CONTEXT_KEY} x", expected)


def use_denied_key(stage: DemoStage) -> None:
    """Write a key of a deny rule."""
    stage.call(RUNNER, f"SET {LOCK_KEY} x", denied(ReplyCode.KEY_DENIED, key=LOCK_KEY))


def run_batches(stage: DemoStage) -> None:
    """Call a batch with a denied command, then one without."""
    stage.batch(
        RUNNER,
        [f"SET {STATE_KEY} done", f"SET {LOCK_KEY} x"],
        denied(ReplyCode.KEY_DENIED, key=LOCK_KEY, item="2"),
    )
    stage.batch(RUNNER, [f"SET {RESULT_KEY} 42", READ_STATE], [True, "running"])


def write_until_limited(stage: DemoStage) -> None:
    """Write in a loop until the rate limit denies it, then wait and write again."""
    # Until the writes of earlier scenes no longer count.
    stage.wait_ms(stage.writes[RUNNER] * INTERVAL_MS)
    start_s = time.monotonic()
    write = f"SET {STATE_KEY} step-"
    passed, reply = _until_denied(lambda n: stage.ask(RUNNER, f"{write}{n}"), 10 * BURST)
    # A place in the burst is freed every 100 ms, also during the loop.
    freed = int((time.monotonic() - start_s) * 1000) // INTERVAL_MS + 1
    stage.check(
        f"{write}0, step-1, … in a loop",
        f"{passed} writes pass at once",
        f"{BURST} writes pass at once",
        who=RUNNER,
        ok=BURST <= passed < BURST + freed + 1,
    )
    limited = denied(ReplyCode.RATE_LIMITED, limit="rate.writes")
    stage.record(RUNNER, f"{write}{passed}", reply, limited)
    if isinstance(reply, RateLimitedError):
        after_ms = reply.retry_after_ms
        stage.wait_ms(after_ms)
        reply = stage.ask(RUNNER, f"{write}{passed}")
        stage.record(RUNNER, f"the same, {after_ms} ms later", reply, True)


def _until_denied(ask: Callable[[int], Reply], at_most: int) -> tuple[int, Reply]:
    """Return the number of calls that passed, and the last reply."""
    for passed in range(at_most):
        reply = ask(passed)
        if isinstance(reply, LeashError):
            return passed, reply
    return at_most, reply


def spend_budget(stage: DemoStage) -> None:
    """Call in a loop until the day's budget is used up."""
    _wait_for_whole_window(stage)
    command = f"EXISTS {CHECKPOINT_KEY}"
    passed, reply = _until_denied(lambda _: stage.ask(RECOVERY, command), 2 * DAILY_REQUESTS)
    stage.check(
        f"{command} in a loop", f"{passed} calls pass", f"{DAILY_REQUESTS} calls pass", who=RECOVERY
    )
    spent = denied(ReplyCode.BUDGET_EXHAUSTED, limit="budget.requests")
    stage.record(RECOVERY, command, reply, spent)
    _check_used(stage, RECOVERY, DAILY_REQUESTS)
    if isinstance(reply, BudgetExhaustedError):
        midnight_ms = (stage.now_ms() // DAY_MS + 1) * DAY_MS
        stage.check(
            "time of the reset",
            f"at {clock_time(reply.resets_at_ms)}",
            f"at {clock_time(midnight_ms)}",
            who=RECOVERY,
        )


def _wait_for_whole_window(stage: DemoStage) -> None:
    # Across midnight (UTC) the loop would get a new budget.
    left_ms = DAY_MS - stage.now_ms() % DAY_MS
    if left_ms < LOOP_MS:
        stage.wait_ms(left_ms)


def _check_used(stage: DemoStage, identity: str, budget: int) -> None:
    used = stage.used(identity, "budget.requests")
    stage.check("keyleash status", f"{used} of {budget} used", f"{budget} of {budget} used")


def outlive_token(stage: DemoStage) -> None:
    """Call before and after the expiry of a token."""
    stage.issue(READER, ttl="1s")
    stage.call(READER, READ_CONTEXT, None)
    stage.wait_ms(stage.tokens[READER].expires_ms - stage.now_ms())
    stage.call(READER, READ_CONTEXT, denied(ReplyCode.TOKEN_EXPIRED))


def revoke_token(stage: DemoStage) -> None:
    """Call before and after the revocation of a token."""
    stage.issue(READER)
    stage.call(READER, READ_CONTEXT, None)
    token_id = stage.tokens[READER].id
    revoked = stage.operator.tokens.revoke(token_id).tokens
    stage.check(
        f"keyleash token revoke {token_id}",
        f"{counted(len(revoked), 'token')} revoked",
        "1 token revoked",
        ok=[(item.identity, item.id) for item in revoked] == [(READER, token_id)],
    )
    stage.call(READER, READ_CONTEXT, denied(ReplyCode.TOKEN_REVOKED))


def suspend_and_resume(stage: DemoStage) -> None:
    """Call during and after a suspension."""
    result = stage.operator.freeze(RUNNER, reason="demo")
    _check_change(stage, f"keyleash freeze {RUNNER} --reason demo", result.identities[0].changed)
    stage.call(RUNNER, READ_STATE, denied(ReplyCode.SUSPENDED))
    result = stage.operator.thaw(RUNNER)
    _check_change(stage, f"keyleash thaw {RUNNER}", result.identities[0].changed)
    stage.call(RUNNER, f"EXISTS {STATE_KEY}", 1)


def _check_change(stage: DemoStage, call: str, changed: bool) -> None:
    stage.check(call, "done" if changed else "unchanged", "done")


DENIED = {
    READER: [ReplyCode.CLASS_NOT_GRANTED, ReplyCode.TOKEN_EXPIRED, ReplyCode.TOKEN_REVOKED],
    RUNNER: [
        ReplyCode.KEY_NOT_GRANTED,
        ReplyCode.KEY_DENIED,
        ReplyCode.KEY_DENIED,
        ReplyCode.RATE_LIMITED,
        ReplyCode.SUSPENDED,
    ],
    RECOVERY: [ReplyCode.BUDGET_EXHAUSTED],
}
"""The denials of each identity, in order."""


def compare_audit_log(stage: DemoStage) -> None:
    """Compare the audit log with the replies of this session."""
    events = list(stage.operator.audit.events(RUNNER))
    stage.check(
        f"keyleash audit log {RUNNER}",
        counted(len(events), "mutation"),
        counted(stage.writes[RUNNER], "mutation"),
    )
    found: dict[str, list[str]] = {identity: [] for identity in DENIED}
    for denial in stage.operator.audit.denials(*DENIED):
        found[denial.identity] += [denial.code] * denial.repeats
    stage.check(
        "keyleash audit log --denied",
        counted(sum(map(len, found.values())), "denial"),
        f"{counted(sum(map(len, DENIED.values())), 'denial')}, in the order of the calls",
        ok=found == DENIED,
    )


def use_cluster(stage: DemoStage) -> None:
    """Spend one budget on the nodes of a cluster, revoke the token, and read the audit log."""
    serve = f"keyleash serve --cluster {NODES}"
    try:
        cluster = EmbeddedCluster(NODES).start()
    except OperationError as error:
        stage.skip(serve, error.message)
        return
    with cluster, stage.on_cluster(cluster.url) as on_cluster:
        on_cluster.operator.load(keyleash.Policy(CLUSTER_POLICY))
        on_cluster.issue(RUNNER)
        _spend_on_all_nodes(on_cluster)
        _revoke_on_all_nodes(on_cluster)
        _read_merged_log(on_cluster)


def _spend_on_all_nodes(stage: DemoStage) -> None:
    _wait_for_whole_window(stage)
    calls = SHARED_BUDGET + SHARED_BUDGET // 5
    replies = [stage.ask(RUNNER, f"SET agents:jobs:{job}:state x") for job in range(calls)]
    stage.check(
        f"SET agents:jobs:0:state x, agents:jobs:1:state x, … {calls} times",
        f"{replies.count(True)} writes pass",
        f"{SHARED_BUDGET} writes pass",
        who=RUNNER,
    )
    spent = denied(ReplyCode.BUDGET_EXHAUSTED, limit="budget.requests")
    stage.record(RUNNER, f"SET agents:jobs:{calls - 1}:state x", replies[-1], spent)
    _check_used(stage, RUNNER, SHARED_BUDGET)


def _revoke_on_all_nodes(stage: DemoStage) -> None:
    nodes = stage.operator.tokens.revoke(identity=RUNNER).nodes or ()
    reached = sum(node.is_reached for node in nodes)
    stage.check(
        f"keyleash token revoke --identity {RUNNER}",
        f"effective now at {reached} of {len(nodes)} nodes",
        f"effective now at {NODES} of {NODES} nodes",
    )
    # One key of each node: the slots are divided evenly.
    on_nodes: dict[int, str] = {}
    for job in range(SHARED_BUDGET):
        key = f"agents:jobs:{job}:state"
        on_nodes.setdefault(key_slot(key.encode()) * NODES // SLOTS, key)
    for key in on_nodes.values():
        stage.call(RUNNER, f"GET {key}", denied(ReplyCode.TOKEN_REVOKED))


def _read_merged_log(stage: DemoStage) -> None:
    events = list(stage.operator.audit.events(RUNNER))
    stage.check(
        f"keyleash audit log {RUNNER}",
        f"{counted(len(events), 'mutation')} of {len({event.shard for event in events})} nodes",
        f"{counted(SHARED_BUDGET, 'mutation')} of {NODES} nodes",
    )


Scene = tuple[str, Callable[[DemoStage], None]]

SCENES: tuple[Scene, ...] = (
    ("an operator loads a policy and issues tokens", prepare),
    ("a granted operation on a granted key", run_granted),
    ("a key that is not granted", use_other_key),
    ("an operation that is not granted: the reader only reads", write_as_reader),
    ("a key that a deny rule protects", use_denied_key),
    ("a batch is all-or-nothing", run_batches),
    ("too many writes: 600 a minute, 60 at once", write_until_limited),
    ("a runaway loop: 5000 requests a day", spend_budget),
    ("a token that lives one second", outlive_token),
    ("a revocation takes effect on the next call", revoke_token),
    ("an identity is suspended, and resumed", suspend_and_resume),
    ("every write and every denial is in the audit log", compare_audit_log),
    ("three nodes of a cluster share a budget, and a revocation", use_cluster),
)
"""Titles, and the functions that play the scenes."""
