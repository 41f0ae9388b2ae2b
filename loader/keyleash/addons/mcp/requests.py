"""Requests over HTTP: how long they may take to arrive, and what a token may have open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

import h11
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

ARRIVAL_S = 20.0
"""The time in which headers and body must arrive."""
MAX_WAITING = 256
"""Connections that wait for a request, so without a token; of more the oldest is closed."""
MAX_OF_ROOT = 64
"""The sessions and clients of an issued token and those that were delegated from it."""
MAX_REQUESTS = 2 * MAX_OF_ROOT
"""Their requests, since each session may have a stream that stays open."""
MAX_BODIES_OF_ROOT, MAX_BODIES = 16 * 1024 * 1024, 128 * 1024 * 1024
"""The bytes of bodies of requests that are served."""
TOO_MANY = "too many requests at the same time"


class Connection(H11Protocol):
    """A connection of uvicorn with these bounds, which uvicorn has not."""

    _waiting: ClassVar[dict[Connection, None]] = {}
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._look()

    def handle_events(self) -> None:
        """Look at what has arrived."""
        super().handle_events()
        self._look()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of one that was answered before."""
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._waiting.pop(self, None)
        if self._timer:
            self._timer.cancel()

    def _look(self) -> None:
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._timer = self._timer or self.loop.call_later(ARRIVAL_S, self.transport.abort)
        elif self._timer:
            self._timer.cancel()
            self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._waiting.pop(self, None)
        elif not self.transport.is_closing():
            self._waiting[self] = None
        if len(self._waiting) > MAX_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest.transport.abort()


class Requests:
    """Bounds the requests of each root of tokens; *after* one it is called with the root."""

    def __init__(self, app: ASGIApp, after: Callable[[str], Awaitable[None]]) -> None:
        self._app = app
        self._after = after
        # By root, the bytes of the body of each.
        self._open: dict[str, dict[object, int]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        user = scope.get("user")
        if not isinstance(user, AuthenticatedUser):
            await self._app(scope, receive, send)
            return
        root, request = user.access_token.client_id.partition(" ")[2], object()
        bodies = self._open.setdefault(root, {})
        if len(bodies) >= MAX_REQUESTS:
            await PlainTextResponse(TOO_MANY, 429)(scope, receive, send)
            return
        bodies[request] = 0
        is_complete = False

        async def bounded() -> Message:
            nonlocal is_complete
            message = await receive()
            if message["type"] == "http.disconnect":
                if not is_complete:
                    # The SDK would log it as an error of its own.
                    raise HTTPException(400)
                return message
            bodies[request] += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            of_all = sum(sum(item.values()) for item in self._open.values())
            if sum(bodies.values()) > MAX_BODIES_OF_ROOT or of_all > MAX_BODIES:
                raise HTTPException(503, "too many long requests at the same time")
            return message

        try:
            await self._app(scope, bounded, send)
            await self._after(root)
        finally:
            del bodies[request]
            if not bodies:
                del self._open[root]
