"""The server, operator and agents of the demo."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

import keyleash
from keyleash.errors import LeashError, ReplyCode
from keyleash.operator.tokens import IssuedToken, issue_token
from keyleash.store.identities import server_time_ms
from keyleash.store.keyspace import Keyspace
from keyleash.store.state import Layout, unpack_state
from keyleash.text import printable

Answer = Any
"""A reply, or the `LeashError` that came in its place."""


@dataclass(frozen=True)
class DemoOutcome:
    """One line of the session, checked."""

    scene: str
    who: str
    call: str
    answer: str
    expected: str
    ok: bool


@dataclass(frozen=True)
class Replies:
    """The command runs and replies *value*."""

    value: Any

    def __str__(self) -> str:
        return said(self.value)

    def is_met_by(self, answer: Answer) -> bool:
        """Whether that is what happened."""
        return not isinstance(answer, LeashError) and bool(answer == self.value)


@dataclass(frozen=True)
class ExpectedDenial:
    """The guard refuses with *code*, and says at least *details*."""

    code: ReplyCode
    details: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return _line(self.code, self.details)

    def is_met_by(self, answer: Answer) -> bool:
        """Whether that is what happened."""
        return (
            isinstance(answer, LeashError)
            and answer.code is self.code
            and self.details.items() <= answer.details.items()
        )


Expectation = Replies | ExpectedDenial


def said(answer: Answer) -> str:
    """An answer on one line."""
    match answer:
        case LeashError():
            return _line(answer.code, answer.details)
        case list():
            return ", ".join(map(said, answer))
        case None:
            return "(nil)"
        case True:
            return "OK"
        case int():
            return f"(integer) {answer}"
        case _:
            return printable(str(answer))


def _line(code: ReplyCode, details: Mapping[str, str]) -> str:
    # A moment in milliseconds is for programs; the scenes say it in words where it matters.
    pairs = (
        f"{name}={printable(value)}"
        for name, value in details.items()
        if not name.endswith("_at_ms")
    )
    return " ".join([str(code), *pairs])


ACTOR = "demo"
OPERATOR = "operator"
CORRELATION = "incident-7"
MARGIN_S = 0.002
"""A sleep is never exactly as long as it was meant to be."""


class DemoStage:
    """
    Where the session happens.

    Attributes:
        operator: An unguarded client with full rights.
        outcomes: Every line so far.
        writes: Mutations that were let through, by identity.
    """

    def __init__(self, url: str, listener: Callable[[DemoOutcome], None]) -> None:
        self.url = url
        self.operator: Any = redis.Redis.from_url(url)
        self.keyspace = Keyspace()
        self.outcomes: list[DemoOutcome] = []
        self.writes: dict[str, int] = {}
        self.scene = ""
        self._listener = listener
        self._agents: dict[str, keyleash.Redis] = {}
        self._tokens: dict[str, IssuedToken] = {}

    def close(self) -> None:
        """Let go of the connections."""
        for client in (*self._agents.values(), self.operator):
            client.close()

    def issue(self, identity: str, ttl_s: int | None = None) -> IssuedToken:
        """Issue a token; from now on the agent uses this one."""
        token = issue_token(self.operator, identity, ttl_s=ttl_s, actor=ACTOR, note="demo")
        if identity in self._agents:
            self._agents[identity].close()
        self._agents[identity] = keyleash.Redis.from_url(
            self.url, token=token.token, decode_responses=True
        )
        self._tokens[identity] = token
        return token

    def token_of(self, identity: str) -> IssuedToken:
        """The token that the agent uses."""
        return self._tokens[identity]

    def ask(self, identity: str, *command: str) -> Answer:
        """Let an agent call a command; a refusal is an answer too."""
        try:
            with keyleash.correlation(CORRELATION):
                answer = self._agents[identity].execute_command(*command)
        except LeashError as refusal:
            return refusal
        if command[0] == "SET":
            self.writes[identity] = self.writes.get(identity, 0) + 1
        return answer

    def ask_batch(self, identity: str, *commands: str) -> Answer:
        """Let an agent call commands that run all, or not at all."""
        try:
            batch: Any
            with keyleash.correlation(CORRELATION), self._agents[identity].batch() as batch:
                for command in commands:
                    batch.execute_command(*command.split(" "))
        except LeashError as refusal:
            return refusal
        writes = sum(command.startswith("SET ") for command in commands)
        self.writes[identity] = self.writes.get(identity, 0) + writes
        return batch.results

    def call(self, identity: str, command: str, expected: Expectation) -> Answer:
        """Let an agent call a command, and record whether it was answered as expected."""
        answer = self.ask(identity, *command.split(" "))
        self.record(identity, command, answer, expected)
        return answer

    def record(self, who: str, call: str, answer: Answer, expected: Expectation) -> None:
        """Record an answer beside what it should have been."""
        self._add(who, call, said(answer), str(expected), expected.is_met_by(answer))

    def check(self, who: str, call: str, fact: str, expected: str, ok: bool) -> None:
        """Record a fact that was checked otherwise."""
        self._add(who, call, fact, expected, ok)

    def now_ms(self) -> int:
        """Server time."""
        return server_time_ms(self.operator)

    def wait_ms(self, duration_ms: int) -> None:
        """Let time pass."""
        time.sleep(max(0, duration_ms) / 1000 + MARGIN_S)

    def budget_used(self, identity: str, limit: str) -> int:
        """What the state of an identity says that a budget has counted."""
        layout = Layout.from_json(self.operator.hget(self.keyspace.layouts, identity))
        state = unpack_state(self.operator.get(self.keyspace.state(identity)), layout)
        return next(held.used for held in state.limits if held.slot.name == limit)

    def _add(self, who: str, call: str, answer: str, expected: str, ok: bool) -> None:
        outcome = DemoOutcome(self.scene, who, call, answer, expected, ok)
        self.outcomes.append(outcome)
        self._listener(outcome)
