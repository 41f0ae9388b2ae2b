"""The session, scene by scene. Its limits are those of examples/agents.yaml."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from keyleash.audit import read_denials, read_events
from keyleash.cli.demo.stage import (
    ACTOR,
    OPERATOR,
    Answer,
    DemoStage,
    Expectation,
    ExpectedDenial,
    Replies,
)
from keyleash.compiler.render import examples_root
from keyleash.errors import BudgetExhaustedError, LeashError, RateLimitedError, ReplyCode
from keyleash.operator import freeze, load_policy, thaw
from keyleash.operator.tokens import revoke as revoke_token
from keyleash.text import clock_time, counted, distance

READER, RUNNER, RECOVERY = "agent-reader", "agent-runner", "agent-recovery"
STATE_KEY = "agents:jobs:42:state"
CONTEXT_KEY = "agents:context:42"
RESULT_KEY = "agents:jobs:42:result"
LOCK_KEY = "agents:jobs:42:lock"
CHECKPOINT_KEY = "agents:recovery:7:checkpoint"

BURST = 60
INTERVAL_MS = 100
DAILY_REQUESTS = 5000
DAY_MS = 86_400_000
LOOP_MS = 10_000
"""More than the runaway loop may take."""

DONE = Replies(True)
"""Redis-py makes a bool of OK."""

Step = Callable[[DemoStage], object]


@dataclass(frozen=True)
class Scene:
    """A few steps that show one thing."""

    title: str
    steps: tuple[Step, ...]

    def play(self, stage: DemoStage) -> None:
        """Take the steps."""
        stage.scene = self.title
        for step in self.steps:
            step(stage)


def call(identity: str, command: str, expected: Expectation) -> Step:
    """A step in which an agent calls one command."""
    return lambda stage: stage.call(identity, command, expected)


def batch(identity: str, *commands: str, expected: Expectation) -> Step:
    """A step in which an agent calls several commands at once."""

    def step(stage: DemoStage) -> None:
        answer = stage.ask_batch(identity, *commands)
        stage.record(identity, f"batch: {'; '.join(commands)}", answer, expected)

    return step


def refused(code: ReplyCode, **details: str) -> ExpectedDenial:
    """Expect a refusal; `class_` stands for `class`."""
    return ExpectedDenial(code, {name.rstrip("_"): value for name, value in details.items()})


def load_example(stage: DemoStage) -> None:
    """Make examples/agents.yaml the active policy."""
    path = examples_root() / "agents.yaml"
    result = load_policy(stage.operator, path.read_text("utf-8"), file=str(path), actor=ACTOR)
    count = counted(len(result.identities), "identity")
    fact = f"activated generation {result.generation}: {count}"
    expected = "activated generation 1: 4 identities"
    stage.check(OPERATOR, f"keyleash load {path.name}", fact, expected, fact == expected)


def issue(identity: str, ttl_s: int | None = None) -> Step:
    """A step in which an agent gets a new token."""

    def step(stage: DemoStage) -> None:
        token = stage.issue(identity, ttl_s)
        life = distance(token.expires_ms, stage.now_ms() - 500)
        option = f" --ttl {ttl_s}s" if ttl_s else ""
        stage.check(
            OPERATOR,
            f"keyleash token issue {identity}{option}",
            f"token {token.id}, expires {life}",
            "a token that is not shortened",
            not token.capped,
        )

    return step


def let_burst_refill(stage: DemoStage) -> None:
    """Wait until the writes of earlier scenes do not count any more."""
    stage.wait_ms(stage.writes.get(RUNNER, 0) * INTERVAL_MS)


def write_until_limited(stage: DemoStage) -> None:
    """Write in a loop until the rate stops it, then wait as told and write again."""
    start_s = time.monotonic()
    write = ("SET", STATE_KEY)
    passed, answer = _until_refused(lambda n: stage.ask(RUNNER, *write, f"step-{n}"), 10 * BURST)
    # A place in the burst comes free every 100 ms, also while the loop runs.
    freed = int((time.monotonic() - start_s) * 1000) // INTERVAL_MS + 1
    stage.check(
        RUNNER,
        f"SET {STATE_KEY} step-0, step-1, … in a loop",
        f"{passed} writes pass at once",
        f"{BURST} writes pass at once",
        BURST <= passed < BURST + freed + 1,
    )
    limited = refused(ReplyCode.RATE_LIMITED, limit="rate.writes")
    stage.record(RUNNER, f"SET {STATE_KEY} step-{passed}", answer, limited)
    if isinstance(answer, RateLimitedError):
        after_ms = answer.retry_after_ms
        stage.wait_ms(after_ms)
        answer = stage.ask(RUNNER, *write, f"step-{passed}")
        stage.record(RUNNER, f"the same, {after_ms} ms later", answer, DONE)


def _until_refused(ask: Callable[[int], Answer], at_most: int) -> tuple[int, Answer]:
    """How often a call passed, and its last answer; a guard that never refuses ends it too."""
    for passed in range(at_most):
        answer = ask(passed)
        if isinstance(answer, LeashError):
            return passed, answer
    return at_most, answer


def stay_clear_of_midnight(stage: DemoStage) -> None:
    """The budget is one of UTC days: a loop across midnight would get a new one."""
    left_ms = DAY_MS - stage.now_ms() % DAY_MS
    if left_ms < LOOP_MS:
        stage.wait_ms(left_ms)


def spend_budget(stage: DemoStage) -> None:
    """Call in a loop until the day's budget is spent."""
    command = f"EXISTS {CHECKPOINT_KEY}"
    passed, answer = _until_refused(
        lambda _: stage.ask(RECOVERY, *command.split()), 2 * DAILY_REQUESTS
    )
    stage.check(
        RECOVERY,
        f"{command} in a loop",
        f"{passed} calls pass",
        f"{DAILY_REQUESTS} calls pass",
        passed == DAILY_REQUESTS,
    )
    spent = refused(ReplyCode.BUDGET_EXHAUSTED, limit="budget.requests")
    stage.record(RECOVERY, command, answer, spent)
    used = stage.budget_used(RECOVERY, "budget.requests")
    stage.check(
        OPERATOR,
        "keyleash status",
        f"{used} of {DAILY_REQUESTS} used",
        f"{DAILY_REQUESTS} of {DAILY_REQUESTS} used",
        used == DAILY_REQUESTS,
    )
    if isinstance(answer, BudgetExhaustedError):
        midnight_ms = (stage.now_ms() // DAY_MS + 1) * DAY_MS
        stage.check(
            RECOVERY,
            "when may it go on?",
            f"at {clock_time(answer.resets_at_ms)}",
            f"at {clock_time(midnight_ms)}",
            answer.resets_at_ms == midnight_ms,
        )


def outlive_token(stage: DemoStage) -> None:
    """Wait until the reader's token is over."""
    stage.wait_ms(stage.token_of(READER).expires_ms - stage.now_ms())


def revoke(stage: DemoStage) -> None:
    """Revoke the reader's token."""
    token_id = stage.token_of(READER).id
    revoked = revoke_token(stage.operator, token_id=token_id, actor=ACTOR).tokens
    stage.check(
        OPERATOR,
        f"keyleash token revoke {token_id}",
        f"{counted(len(revoked), 'token')} revoked",
        "1 token revoked",
        revoked == ((READER, token_id),),
    )


def suspend(suspended: bool) -> Step:
    """A step in which the runner is suspended, or resumed."""
    word = "suspend" if suspended else "resume"

    def step(stage: DemoStage) -> None:
        if suspended:
            result = freeze(stage.operator, [RUNNER], reason="", actor=ACTOR)
        else:
            result = thaw(stage.operator, [RUNNER], actor=ACTOR)
        changed = result.identities[0].changed
        fact = "done" if changed else "it was so already"
        stage.check(OPERATOR, f"keyleash identity {word} {RUNNER}", fact, "done", changed)

    return step


def count_mutations(stage: DemoStage) -> None:
    """Compare the trail with the writes that were answered."""
    wanted = stage.writes.get(RUNNER, 0)
    events = list(read_events(stage.operator, stage.keyspace, [RUNNER]))
    stage.check(
        OPERATOR,
        f"keyleash audit log {RUNNER}",
        f"{counted(len(events), 'mutation')}",
        f"{counted(wanted, 'mutation')}",
        len(events) == wanted,
    )


DENIALS = {
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
"""What each identity was refused, in order; between identities one millisecond has no order."""


def compare_denials(stage: DemoStage) -> None:
    """Compare the denials of each identity with the refusals of this session."""
    denials = list(read_denials(stage.operator, stage.keyspace, [*DENIALS]))
    found: dict[str, list[str]] = {identity: [] for identity in DENIALS}
    for denial in denials:
        found[denial.identity] += [denial.code] * denial.repeats
    wanted = sum(map(len, DENIALS.values()))
    stage.check(
        OPERATOR,
        "keyleash audit log --denied",
        f"{counted(sum(denial.repeats for denial in denials), 'refusal')}",
        f"{counted(wanted, 'refusal')}, in the order in which each identity met them",
        found == DENIALS,
    )


SCENES = (
    Scene("an operator loads a policy and hands out tokens", (
        load_example, issue(READER), issue(RUNNER), issue(RECOVERY),
    )),
    Scene("what is granted works", (
        call(RUNNER, f"SET {STATE_KEY} running", DONE),
        call(RUNNER, f"GET {STATE_KEY}", Replies("running")),
    )),
    Scene("a key outside the granted names", (
        call(RUNNER, f"GET {CONTEXT_KEY}", refused(ReplyCode.KEY_NOT_GRANTED, key=CONTEXT_KEY)),
    )),
    Scene("an operation that was not granted: the reader only reads", (
        call(READER, f"SET {CONTEXT_KEY} x", refused(ReplyCode.CLASS_NOT_GRANTED, class_="write")),
    )),
    Scene("a key that a deny rule protects", (
        call(RUNNER, f"SET {LOCK_KEY} x", refused(ReplyCode.KEY_DENIED, key=LOCK_KEY)),
    )),
    Scene("a batch runs whole, or not at all", (
        batch(
            RUNNER, f"SET {STATE_KEY} done", f"SET {LOCK_KEY} x",
            expected=refused(ReplyCode.KEY_DENIED, key=LOCK_KEY, item="2"),
        ),
        batch(
            RUNNER, f"SET {RESULT_KEY} 42", f"GET {STATE_KEY}",
            expected=Replies([True, "running"]),
        ),
    )),
    Scene("too many writes: 600 a minute, 60 at once", (
        let_burst_refill, write_until_limited,
    )),
    Scene("a runaway loop: 5000 requests a day", (
        stay_clear_of_midnight, spend_budget,
    )),
    Scene("a token that lives one second", (
        issue(READER, ttl_s=1),
        call(READER, f"GET {CONTEXT_KEY}", Replies(None)),
        outlive_token,
        call(READER, f"GET {CONTEXT_KEY}", refused(ReplyCode.TOKEN_EXPIRED)),
    )),
    Scene("a revocation takes effect on the next call", (
        issue(READER),
        call(READER, f"GET {CONTEXT_KEY}", Replies(None)),
        revoke,
        call(READER, f"GET {CONTEXT_KEY}", refused(ReplyCode.TOKEN_REVOKED)),
    )),
    Scene("an identity is suspended, and resumed", (
        suspend(True),
        call(RUNNER, f"GET {STATE_KEY}", refused(ReplyCode.SUSPENDED)),
        suspend(False),
        call(RUNNER, f"EXISTS {STATE_KEY}", Replies(1)),
    )),
    Scene("every call is in the audit log", (count_mutations, compare_denials)),
)  # fmt: skip
