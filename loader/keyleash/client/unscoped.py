"""What redis-py offers that does not go by `execute_command`: refused, with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from keyleash.errors import CommandRefusedError


class Unscoped:
    """Mixed in before redis-py's class, sync or async, client or pipeline."""

    def pubsub(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: messages come without a call that could be judged."""
        raise unscoped(
            "SUBSCRIBE",
            "a subscription does not go through the guard",
            "use a client of its own, with a user for channels",
        )

    def monitor(self) -> NoReturn:
        """Refuse: MONITOR shows everybody's commands."""
        raise unscoped("MONITOR", "it shows everybody's commands", "use an operator's client")

    def lock(self, name: Any, *args: Any, lock_class: Any = None, **options: Any) -> Any:
        """Refuse redis-py's own lock, which could be taken but not released.

        A *lock_class* that does without scripts is used.
        """
        if lock_class is None:
            raise unscoped(
                "EVALSHA",
                "redis-py releases a lock by a script of its own, and a script cannot be judged",
                "use `set(name, value, nx=True, px=...)` and let it expire, or a lock_class",
            )
        above: Any = super()
        return above.lock(name, *args, lock_class=lock_class, **options)

    def json(self, *args: Any, **options: Any) -> Any:
        """Like redis-py's; its commands go through the guard."""
        above: Any = super()
        return _without_pipeline(above.json(*args, **options))

    def ts(self, *args: Any, **options: Any) -> Any:
        """Like redis-py's; its commands go through the guard."""
        above: Any = super()
        return _without_pipeline(above.ts(*args, **options))

    def ft(self, *args: Any, **options: Any) -> Any:
        """Like redis-py's; its commands go through the guard."""
        above: Any = super()
        return _without_pipeline(above.ft(*args, **options))


def unscoped(command: str, reason: str, instead: str) -> CommandRefusedError:
    """The refusal of what the client itself does not do."""
    return CommandRefusedError({"command": command, "reason": reason}, help=instead)


def require_no_watches(keys: Sequence[Any]) -> None:
    """Refuse WATCH, which a script cannot do.

    Raises:
        CommandRefusedError: there is a key to watch.
    """
    if keys:
        raise watching()


def watching() -> CommandRefusedError:
    return unscoped(
        "WATCH",
        "a guard judges and runs a batch in one call, and nothing can be read before it",
        "use a batch without WATCH, or commands that are atomic themselves",
    )


def _without_pipeline(helper: Any) -> Any:
    """Take from a module's helper what makes redis-py's pipelines, by the pool alone."""

    def refused(*_: Any, **__: Any) -> NoReturn:
        raise unscoped(
            "MULTI",
            "the pipeline of a module's helper does not go through the guard",
            "use the helper of a pipeline, as in `client.pipeline().json()`",
        )

    helper.pipeline = refused
    return helper
