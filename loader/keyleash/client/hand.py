"""A reply that was read already, where redis-py's parser reads from a connection."""

from __future__ import annotations

from typing import Any

from keyleash.client.flow import NothingYet
from keyleash.errors import NotReplicatedError


class InHand:
    """Looks like a connection that has one reply to read.

    Redis-py's own `parse_response` then does with an item of a batch what it does with
    the reply of a command: callbacks, EMPTY_RESPONSE, NEVER_DECODE.

    Args:
        reply: The reply, or the exception that it is.
        encoder: The connection's, if the reply was read without decoding.
    """

    __slots__ = ("_encoder", "_reply")

    def __init__(self, reply: Any, encoder: Any = None) -> None:
        self._reply = reply
        self._encoder = encoder

    @property
    def is_error(self) -> bool:
        """Whether reading it raises."""
        return isinstance(self._reply, Exception)

    def read_response(self, disable_decoding: bool = False) -> Any:
        if isinstance(self._reply, Exception):
            raise self._reply
        if self._encoder is None or disable_decoding:
            return self._reply
        return _decoded(self._reply, self._encoder)


class Unreplicated(InHand):
    """A reply to what was done, and that replicas lack."""

    __slots__ = ("short",)

    def __init__(self, hand: InHand, short: NotReplicatedError) -> None:
        super().__init__(hand._reply, hand._encoder)
        self.short = short


class AsyncInHand:
    """The async twin of `InHand`."""

    __slots__ = ("_hand",)

    def __init__(self, hand: InHand) -> None:
        self._hand = hand

    async def read_response(self, disable_decoding: bool = False) -> Any:
        return self._hand.read_response(disable_decoding)


def found(reply: Any) -> InHand:
    """The reply to a poll, unless it is null.

    Raises:
        NothingYet: it is.
    """
    if reply is None:
        raise NothingYet
    return InHand(reply)


def _decoded(reply: Any, encoder: Any) -> Any:
    match reply:
        case bytes():
            return encoder.decode(reply)
        case list() | set():
            return type(reply)(_decoded(item, encoder) for item in reply)
        case dict():
            return {_decoded(k, encoder): _decoded(v, encoder) for k, v in reply.items()}
        case _:
            return reply
