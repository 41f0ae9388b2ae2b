"""The sync and the asyncio methods that are made of one declaration."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, assert_type

import pytest
import redis

import keyleash
from keyleash.audit.entries import Denial
from keyleash.operator.suspension import FreezeResult
from keyleash.operator.tokens.issue import IssuedToken
from keyleash.operator.tokens.list import TokenInfo

NOUNS = ("", "policies", "tokens", "limits", "audit", "undo")


def methods(op: Any) -> dict[str, Callable[..., Any]]:
    """Return the public methods of an operator and its nouns."""
    return {
        f"{noun}.{name}": getattr(owner, name)
        for noun in NOUNS
        for owner in (getattr(op, noun) if noun else op,)
        for name in dir(owner)
        if not name.startswith("_") and name not in NOUNS
    }


def test_both_faces_have_the_same_methods_with_their_signatures_and_docstrings() -> None:
    """Only what they return differs: an iterator may be asynchronous."""
    synchronous = methods(keyleash.Operator(redis.Redis()))
    asynchronous = methods(keyleash.asyncio.Operator(redis.Redis()))

    assert synchronous.keys() == asynchronous.keys()
    assert len(synchronous) > 50
    for name, method in synchronous.items():
        other = asynchronous[name]
        assert inspect.getdoc(method) == inspect.getdoc(other), name
        assert method.__name__ == other.__name__
        signature, other_signature = inspect.signature(method), inspect.signature(other)
        assert signature.parameters == other_signature.parameters, name
        result, other_result = signature.return_annotation, other_signature.return_annotation
        assert other_result in {result, f"Async{result}"}, name
        assert other_result.startswith("Async") == result.startswith("Iterator"), name


@pytest.mark.parametrize("cls", [keyleash.Operator, keyleash.asyncio.Operator])
def test_argument_is_checked_by_the_call_of_both_faces(cls: type[Any]) -> None:
    """The coroutine of a wrong call is never made."""
    with pytest.raises(TypeError, match="missing a required"):
        cls(redis.Redis()).freeze("one")
    with pytest.raises(TypeError, match="`identities` must be str, not bytes"):
        cls(redis.Redis()).audit.denials(b"one")


def check_types(op: keyleash.Operator) -> None:
    """The types of the sync face, which mypy checks: nothing calls this."""
    assert_type(op.tokens.issue("one", ttl="2h"), IssuedToken)
    assert_type(op.tokens.list(), list[TokenInfo])
    assert_type(op.freeze("one", reason="x"), FreezeResult)
    assert_type(op.audit.denials(code="RATE_LIMITED"), Iterator[Denial])
    op.tokens.issue("one", tll="2h")  # type: ignore[call-arg]
    op.tokens.issue(b"one")  # type: ignore[arg-type]
    op.tokens.issue()  # type: ignore[call-arg]
    op.freeze("one")  # type: ignore[call-arg]
    op.audit.control(key="k")  # type: ignore[call-arg]


async def check_async_types(op: keyleash.asyncio.Operator) -> None:
    """The types of the asyncio face."""
    _ = assert_type(op.tokens.issue("one"), Coroutine[Any, Any, IssuedToken])
    assert_type(await op.tokens.list(), list[TokenInfo])
    assert_type(op.audit.denials(), AsyncIterator[Denial])
    op.tokens.issue("one")  # type: ignore[unused-coroutine]
    await op.tokens.issue("one", ttl=3)  # type: ignore[arg-type]
    await op.freeze()  # type: ignore[call-arg]
    op.tokens.list().sort()  # type: ignore[attr-defined]
    for _event in op.audit.events():  # type: ignore[attr-defined]
        pass
