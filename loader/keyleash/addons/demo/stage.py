"""The server, operator and agents of the demo."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import keyleash
from keyleash.errors import DENIALS, LeashError, ReplyCode
from keyleash.operator.tokens.issue import IssuedToken
from keyleash.text import distance, printable

Reply = Any
"""A reply, or the `LeashError` that was raised in its place."""

OPERATOR = "operator"
CORRELATION = "incident-7"
MARGIN_S = 0.002
"""A sleep may end a little early."""


@dataclass(frozen=True)
class DemoOutcome:
    """A checked line of the session.

    Attributes:
        ok: Whether the answer is as expected.
    """

    scene: str
    who: str
    call: str
    answer: str
    expected: str
    ok: bool


def denied(code: ReplyCode, **details: str) -> LeashError:
    """Return an expected denial with at least these details; `class_` stands for `class`."""
    return DENIALS[code]({name.rstrip("_"): value for name, value in details.items()})


def matches(reply: Reply, expected: Reply) -> bool:
    """Return whether a reply equals the expected one; of a denial, code and expected details."""
    if isinstance(expected, LeashError) and isinstance(reply, LeashError):
        return reply.code is expected.code and expected.details.items() <= reply.details.items()
    return bool(reply == expected)


def reply_text(reply: Reply) -> str:
    """Return a reply on one line."""
    match reply:
        case LeashError():
            # Times in milliseconds are for programs.
            pairs = (
                f"{name}={printable(value)}"
                for name, value in reply.details.items()
                if not name.endswith("_at_ms")
            )
            return " ".join([reply.code, *pairs])
        case list():
            return ", ".join(map(reply_text, reply))
        case None:
            return "(nil)"
        case True:
            return "OK"
        case int():
            return f"(integer) {reply}"
        case _:
            return printable(str(reply))


class DemoStage:
    """A demo session on an empty server.

    Attributes:
        listener: A function that is called with each line.
        outcomes: The lines so far.
        writes: The number of successful writes per identity.
        tokens: The current token per identity.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.operator = keyleash.Operator.from_url(url, actor="demo")
        self.outcomes: list[DemoOutcome] = []
        self.writes: Counter[str] = Counter()
        self.tokens: dict[str, IssuedToken] = {}
        self.scene = ""
        self.listener: Callable[[DemoOutcome], None] | None = None
        self._agents: dict[str, keyleash.Redis] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for agent in self._agents.values():
            agent.close()
        self.operator.close()

    def issue(self, identity: str, ttl: str | None = None) -> None:
        """Issue a token, which the agent uses from now on."""
        token = self.operator.tokens.issue(identity, ttl=ttl, note="demo")
        if identity in self._agents:
            self._agents[identity].close()
        self._agents[identity] = keyleash.Redis.from_url(
            self.url, token=token.token, decode_responses=True
        )
        self.tokens[identity] = token
        life = distance(token.expires_ms, self.now_ms() - 500)
        self.check(
            f"keyleash token issue {identity}{f' --ttl {ttl}' if ttl else ''}",
            f"token {token.id}, expires {life}",
            "a token that is not shortened",
            ok=not token.capped,
        )

    def ask(self, identity: str, command: str) -> Reply:
        """Call a command as an agent; return its reply or denial."""
        try:
            with keyleash.correlation(CORRELATION):
                reply = self._agents[identity].execute_command(*command.split(" "))
        except LeashError as denial:
            return denial
        self.writes[identity] += command.startswith("SET ")
        return reply

    def call(self, identity: str, command: str, expected: Reply) -> None:
        """Call a command as an agent, and record whether the reply is as expected."""
        self.record(identity, command, self.ask(identity, command), expected)

    def batch(self, identity: str, commands: list[str], expected: Reply) -> None:
        """Call commands as a batch, and record whether the replies are as expected."""
        reply: Reply
        try:
            batch: Any
            with keyleash.correlation(CORRELATION), self._agents[identity].batch() as batch:
                for command in commands:
                    batch.execute_command(*command.split(" "))
        except LeashError as denial:
            reply = denial
        else:
            reply = batch.results
            self.writes[identity] += sum(command.startswith("SET ") for command in commands)
        self.record(identity, f"batch: {'; '.join(commands)}", reply, expected)

    def record(self, who: str, call: str, reply: Reply, expected: Reply) -> None:
        """Record a reply and the expected one."""
        is_ok = matches(reply, expected)
        self.check(call, reply_text(reply), reply_text(expected), who=who, ok=is_ok)

    def check(
        self, call: str, fact: str, expected: str, *, who: str = OPERATOR, ok: bool | None = None
    ) -> None:
        """Record a fact and the expected one; unless *ok* is given, they must be equal."""
        is_ok = fact == expected if ok is None else ok
        outcome = DemoOutcome(self.scene, who, call, fact, expected, is_ok)
        self.outcomes.append(outcome)
        if self.listener:
            self.listener(outcome)

    def now_ms(self) -> int:
        """Return the server's time."""
        return self.operator.status().now_ms

    def wait_ms(self, duration_ms: int) -> None:
        """Sleep; not at all if the duration is negative."""
        time.sleep(max(0, duration_ms) / 1000 + MARGIN_S)
