"""The scripts of a server, and its drifts."""

from __future__ import annotations

from collections.abc import Callable

from redis import exceptions as redis_errors

from keyleash.errors import KeyleashError
from keyleash.store.deployment import Server
from keyleash.store.failures import missing_right
from keyleash.store.guards import Recorded, load_missing, read_recorded
from keyleash.store.records import read_head
from keyleash.store.store import Store
from keyleash.store.wire import reason_of, server_message
from keyleash.watch.events import WatchEvent, WatchEventKind

LOOKS_BETWEEN_READINGS = 60
"""Looks after which stored scripts are read again; sooner if the policy changes."""


class WatchedServer:
    """A watched server.

    Attributes:
        generation: The generation of its policy; None if it has none, or did not answer.
        loaded: The number of scripts that the last look loaded.
        drifts: The drifts of the last look.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.generation: int | None = None
        self.loaded = 0
        self.drifts: list[WatchEvent] = []
        self._recorded = Recorded()
        self._read_as: tuple[object, ...] = ()
        self._looks = 0

    def look(self, home: Callable[[], Store] | None) -> None:
        """Read the policy if the server answered, and load the scripts that it lacks.

        *home* returns the store of a cluster's home, which has the policy of all nodes.
        """
        self.generation, self.loaded, self.drifts = None, 0, []
        role, error = self.server.role, self.server.error
        if role is not None:
            if not role.is_linked:
                message = f"it has no link to its primary {role.primary}"
                self._add(WatchEventKind.LINK_DOWN, message)
            try:
                self._load_missing(home)
            except (redis_errors.RedisError, OSError, KeyleashError, LookupError, ValueError) as e:
                # A corrupt record must not end the watch over other servers.
                error = e
        if error is not None:
            self._add(*drift_of(error))

    def _load_missing(self, home: Callable[[], Store] | None) -> None:
        client = self.server.client
        store = Store(client) if home is None else home()
        head = read_head(store)
        if head is None:
            self._add(WatchEventKind.NO_POLICY, "no policy is active on it")
            return
        self.generation = head.generation
        recorded = self._read_recorded(store, (self.server.run_id, *head))
        for kind, scripts, problem in (
            (WatchEventKind.SOURCE_MISSING, recorded.missing, "no stored text"),
            (WatchEventKind.SOURCE_CHANGED, recorded.changed, "a stored text with another digest"),
        ):
            for identity, digest in scripts:
                message = f"the script {digest} of `{identity}` has {problem}"
                self._add(kind, message, f"{identity} {digest}")
        self.loaded = load_missing(store, recorded, client)

    def _read_recorded(self, store: Store, as_of: tuple[object, ...]) -> Recorded:
        """Return the recorded scripts; read again if *as_of* changed, and once in a while."""
        self._looks += 1
        drifted = self._recorded.missing or self._recorded.changed
        if drifted or as_of != self._read_as or self._looks > LOOKS_BETWEEN_READINGS:
            self._recorded = read_recorded(store)
            self._read_as, self._looks = as_of, 0
        return self._recorded

    def _add(self, kind: WatchEventKind, message: str, subject: str | None = None) -> None:
        self.drifts.append(WatchEvent(self.server.name, kind, message, subject))


def drift_of(error: Exception) -> tuple[WatchEventKind, str]:
    """Return what the error of a server is, and a sentence about it."""
    match error:
        case redis_errors.BusyLoadingError():
            return WatchEventKind.NOT_SERVING, "it is still loading its data"
        case (
            redis_errors.AuthenticationError()
            | redis_errors.AuthorizationError()
            | redis_errors.NoPermissionError()
        ):
            right = missing_right(error)
            why = f"the user lacks {right}" if right else server_message(error)
            return WatchEventKind.NOT_PERMITTED, f"access denied: {why}"
        case redis_errors.ConnectionError() | redis_errors.TimeoutError() | OSError():
            return WatchEventKind.UNREACHABLE, f"it does not answer: {reason_of(error)}"
        case redis_errors.RedisError():
            return WatchEventKind.NOT_SERVING, f"it replies: {server_message(error)}"
        case _:
            return WatchEventKind.UNREADABLE, f"its records cannot be read: {type(error).__name__}"
