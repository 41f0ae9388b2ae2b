"""The scenes of the demo. The limits are those of examples/agents.yaml."""

from __future__ import annotations

import time
from collections.abc import Callable

import keyleash
from keyleash.addons.demo.stage import DemoStage, Reply, denied
from keyleash.compiler.render import examples_root
from keyleash.errors import LeashError, RateLimitedError, ReplyCode
from keyleash.text import counted

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


def use_grants(stage: DemoStage) -> None:
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
    # Across midnight (UTC) the loop would get a new budget.
    left_ms = DAY_MS - stage.now_ms() % DAY_MS
    if left_ms < LOOP_MS:
        stage.wait_ms(left_ms)
    command = f"EXISTS {CHECKPOINT_KEY}"
    passed, reply = _until_denied(lambda _: stage.ask(RECOVERY, command), 2 * DAILY_REQUESTS)
    stage.check(
        f"{command} in a loop", f"{passed} calls pass", f"{DAILY_REQUESTS} calls pass", who=RECOVERY
    )
    spent = denied(ReplyCode.BUDGET_EXHAUSTED, limit="budget.requests")
    stage.record(RECOVERY, command, reply, spent)


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
    frozen = stage.operator.freeze(RUNNER, reason="demo").identities[0].changed
    stage.check(f"keyleash freeze {RUNNER} --reason demo", "done", "done", ok=frozen)
    stage.call(RUNNER, READ_STATE, denied(ReplyCode.SUSPENDED))
    resumed = stage.operator.thaw(RUNNER).identities[0].changed
    stage.check(f"keyleash thaw {RUNNER}", "done", "done", ok=resumed)
    stage.call(RUNNER, f"EXISTS {STATE_KEY}", 1)


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


Scene = tuple[str, Callable[[DemoStage], None]]

SCENES: tuple[Scene, ...] = (
    ("an operator loads a policy and issues tokens", prepare),
    ("a granted operation on a granted key", use_grants),
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
)
"""Titles, and the functions that play the scenes."""
