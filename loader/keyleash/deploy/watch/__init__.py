"""Keeping guards loaded on every server of a deployment, and telling what has drifted."""

from keyleash.deploy.watch.address import Address
from keyleash.deploy.watch.news import Kind, News, State
from keyleash.deploy.watch.watcher import Watcher

__all__ = ["Address", "Kind", "News", "State", "Watcher"]
