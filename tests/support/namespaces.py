"""Network namespaces, from which a test reaches one address of the machine and nothing else."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

CLONE_NEWNET = 0x40000000
LOOPBACK = "127.0.0.1"
ResultT = TypeVar("ResultT")


class NoNamespaceError(Exception):
    """The machine lets this process make no network namespace; the text says why."""


class Outside:
    """The place of the test itself.

    Attributes:
        address: That of the machine, as the place sees it.
        why_outside: Why it is no namespace; empty if it is one.
    """

    address = LOOPBACK
    why_outside = "it is not asked for"

    def run(self, function: Callable[..., ResultT], *args: object) -> ResultT:
        """Call a function in the place: its sockets belong there, wherever they are used."""
        return function(*args)


class Namespace(Outside):
    """A network namespace with one link to the machine, without a route beyond it.

    It is that of a thread, and ends with the thread and with the sockets made in it.
    """

    why_outside = ""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        number = self.run(_enter)
        # Of the addresses for tests of networks: 64 links of four addresses in each third byte.
        high, low = divmod(number % 2**14, 64)
        head = f"198.18.{high}"
        self.address, own = f"{head}.{4 * low + 1}", f"{head}.{4 * low + 2}"
        outer = f"kl{number}"
        _ip(f"link add {outer} type veth peer name kl0 netns {number}")
        _ip(f"addr add {self.address}/30 dev {outer}")
        _ip(f"link set {outer} up")
        for words in (f"addr add {own}/30 dev kl0", "link set kl0 up", "link set lo up"):
            self.run(_ip, words)

    def run(self, function: Callable[..., ResultT], *args: object) -> ResultT:
        """Call a function in the namespace."""
        return self._thread.submit(function, *args).result()


@contextmanager
def namespace() -> Iterator[Outside]:
    """A namespace; where none can be made, the place of the test, which says why."""
    with ThreadPoolExecutor(1) as thread:
        try:
            place: Outside = Namespace(thread)
        except NoNamespaceError as error:
            place = Outside()
            place.why_outside = str(error)
        yield place


def _enter() -> int:
    """Give this thread a network namespace of its own; return the number of the thread."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(CLONE_NEWNET):
        raise NoNamespaceError(f"unshare: {os.strerror(ctypes.get_errno())}")
    return threading.get_native_id()


def _ip(words: str) -> None:
    try:
        done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoNamespaceError(f"ip: {error.strerror}") from None
    if done.returncode:
        raise NoNamespaceError(f"ip {words}: {done.stderr.strip()}")
