"""A server of the test's own that speaks RESP as badly as the test likes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

Answer = Callable[[list[bytes]], bytes | None]
"""The bytes that answer a command; none where it is never answered; `HANG_UP` ends it."""

HANG_UP = b""


class FakeResp:
    """
    Listens on a free port of 127.0.0.1.

    Attributes:
        commands: What was asked, in order, names in upper case.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.commands: list[list[bytes]] = []

    @property
    def connections(self) -> int:
        """The number of accepted connections."""
        return len(self._open)

    @property
    def names(self) -> list[str]:
        """The names of the commands that were asked."""
        return [words[0].decode("latin-1") for words in self.commands]

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def close(self) -> None:
        # Only this wakes the thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            while words := _read(stream):
                self.commands.append(words)
                answer = self._answer(words)
                if answer == HANG_UP:
                    return
                if answer is not None:
                    connection.sendall(answer)


def _read(stream: object) -> list[bytes]:
    read_line = stream.readline  # type: ignore[attr-defined]
    read = stream.read  # type: ignore[attr-defined]
    head = read_line()
    if not head.startswith(b"*"):
        return []
    words = []
    for _ in range(int(head[1:])):
        size = int(read_line()[1:])
        words.append(read(size))
        read(2)
    return [words[0].upper(), *words[1:]]


@contextlib.contextmanager
def fake_resp(answer: Answer) -> Iterator[FakeResp]:
    """Serve until the block ends."""
    server = FakeResp(answer)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(10)


def bulk(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return b"$%d\r\n%s\r\n" % (len(data), data)


def info(version: str = "8.0.2", mode: str = "standalone") -> bytes:
    """The reply of a Redis to `INFO server`."""
    return bulk(f"# Server\r\nredis_version:{version}\r\nredis_mode:{mode}\r\n")
