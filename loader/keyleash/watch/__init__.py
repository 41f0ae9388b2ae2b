"""Keeping guards loaded on every server of a deployment, and telling what has drifted."""

from keyleash.watch.events import WatchEvent, WatchEventKind, WatchState
from keyleash.watch.roles import Address
from keyleash.watch.watcher import Watcher

__all__ = [
    "Address",
    "WatchEvent",
    "WatchEventKind",
    "WatchState",
    "Watcher",
]
