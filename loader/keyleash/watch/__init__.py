"""Keep guards loaded on every server of a deployment, and report drift."""

from keyleash.store.server import Address
from keyleash.watch.events import WatchEvent, WatchEventKind, WatchState
from keyleash.watch.watcher import Watcher

__all__ = [
    "Address",
    "WatchEvent",
    "WatchEventKind",
    "WatchState",
    "Watcher",
]
