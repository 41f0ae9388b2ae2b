"""The settings of a run: the server, the connection to it, and the actor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Any, TypeVar

import click
from redis import exceptions as redis_errors

from keyleash.cli.terminal import print_json, print_note
from keyleash.errors import OperationError, UsageError
from keyleash.store.connect import DEFAULT_URL, answering_url, default_actor, shown_url, split_urls
from keyleash.text import to_json

if TYPE_CHECKING:
    from keyleash.api import Operator

R = TypeVar("R")

PARTS = ("dry_run", "recorded", "acl", "capture")
"""Options that make another operation of a command."""

MAX_ACTOR_BYTES = 256


@dataclass
class Settings:
    """One run of the program.

    Attributes:
        url: The server's URL; it may contain a password, so only `shown_url` is printed. Empty if
            KEYLEASH_URL is.
        is_url_given: Whether it is from `--url` or KEYLEASH_URL, and not the default.
        given_actor: The value of `--actor`.
        timeout_s: The value of `--timeout`.
        json: Whether to print JSON in place of text.
        failed: The exit code of failures that have none of their own.
        operation: The command that runs, as `operator.roles` names it.
    """

    url: str = DEFAULT_URL
    is_url_given: bool = False
    given_actor: str | None = None
    timeout_s: float | None = None
    json: bool = False
    failed: int = 1
    operation: str = ""

    @property
    def shown_url(self) -> str:
        """The server's URL without the password."""
        return shown_url(self.url)

    @property
    def actor(self) -> str:
        """The name that is recorded in the audit log."""
        if not self.given_actor:
            return default_actor()
        if not self.given_actor.strip():
            raise UsageError("the actor is blank", help="set it to your name, for the audit log")
        require_length("an actor", self.given_actor, MAX_ACTOR_BYTES)
        return self.given_actor

    def name_server(self) -> None:
        """Print the server that the command is about to change."""
        if not self.json:
            note = "" if self.is_url_given else ", the default: set `--url` or KEYLEASH_URL"
            print_note(f"server     {self.shown_url}{note}")

    def show(self, result: Any, show: Callable[[], object]) -> None:
        """Print a result as JSON with `--json`, else call *show*, which prints it as text."""
        print_json(result) if self.json else show()

    def print_change(self, change: Any) -> None:
        """Print the document of a change with `--json`, with the server."""
        print_json({"server": self.shown_url, **to_json(change)})

    @contextmanager
    def changing(self, advice: str) -> Iterator[None]:
        """Name the server, and report a lost connection during a change of it.

        *advice* is how to find out whether the change has taken effect.
        """
        _ = self.operator  # a server that was never reached is unchanged
        self.name_server()
        try:
            yield
        except (redis_errors.ConnectionError, redis_errors.TimeoutError) as error:
            # Imported here: the start of the program does not need it.
            from keyleash.store.failures import is_unanswered, printable_reason  # noqa: PLC0415

            if not is_unanswered(error):
                raise
            raise OperationError(
                "unanswered",
                "the server did not answer, and the change may or may not have taken effect:"
                f" {printable_reason(error)}",
                help=f"{advice}; `--timeout` waits longer",
            ) from error

    @cached_property
    def operator(self) -> Operator:
        """The API of operators, connected to a supported server."""
        operator = self.unconnected()
        operator.connect()
        return operator

    def unconnected(self, timeout_s: float | None = None) -> Operator:
        """Return the same before it is connected; *timeout_s* is the default of `--timeout`."""
        # Imported here: commands without a server do not need it, and it is heavy.
        from keyleash.api import Operator  # noqa: PLC0415

        return Operator.from_url(
            self.chosen_url(), actor=self.actor, timeout=self.timeout_s or timeout_s
        )

    def chosen_url(self) -> str:
        """Return the URL of a server that answers, from now on `url`, of several in its place."""
        if not self.url:
            raise UsageError("KEYLEASH_URL is set, but empty", help="set it to a server's URL")
        given, self.url = self.url, answering_url(self.url, self.timeout_s)
        chosen = split_urls(self.url)[0]
        if chosen != split_urls(given)[0] and not self.json:
            why = "those before it do not answer, or are replicas"
            print_note(f"note: the server is `{self.shown_url}`; {why}")
        return chosen

    def now_ms(self) -> int:
        """Return the server's clock, Unix milliseconds."""
        return round(self.operator.now().timestamp() * 1000)


def require_length(label: str, text: str, most: int) -> None:
    """Require that *text*, which an error calls *label*, has at most *most* bytes."""
    size = len(text.encode("utf-8", "surrogateescape"))
    if size > most:
        raise UsageError(f"{label} has at most {most} bytes, this one {size}")


def settings_of(context: click.Context) -> Settings:
    """Return the settings of a run."""
    settings = context.find_object(Settings)
    assert settings is not None  # noqa: S101 - Program.main puts it there
    return settings


def pass_settings(function: Callable[..., R]) -> Callable[..., R]:
    """Pass the settings to a command, and note in them which command it is."""

    @click.pass_context
    def call(context: click.Context, /, *args: Any, **options: Any) -> R:
        settings = settings_of(context)
        words = context.command_path.split()[1:]
        words += [f"--{name.replace('_', '-')}" for name in PARTS if options.get(name)]
        settings.operation = " ".join(words)
        return context.invoke(function, settings, *args, **options)

    return update_wrapper(call, function)
