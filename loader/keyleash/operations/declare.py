"""Operations as methods of two faces: in the calling thread, or awaited with asyncio."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial, update_wrapper
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from keyleash.operations.arguments import argument_check, show_filters
from keyleash.operations.run import AsyncRunner, Runner

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Runner | AsyncRunner)
"""The face of a noun: sync or asyncio."""


class Noun(Generic[F]):
    """Operations on one noun, bound to a server.

    The bodies of its methods run in the calling thread or in a worker thread, and see the sync
    runner in both.
    """

    def __init__(self, face: F) -> None:
        self._face: F = face
        self._run: Runner = face.sync


class _Method(Generic[P, T]):
    """A method of two faces, which checks its arguments at once.

    Args:
        function: The method in the calling thread.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        show_filters(function)
        self.function = function
        update_wrapper(self, function)  # type: ignore[arg-type]
        self._check = argument_check(function)
        self._methods = {Runner: self._method(), AsyncRunner: self._method()}

    def _method(self) -> Callable[..., Any]:
        def method(noun: Noun[Any], *args: Any, **options: Any) -> Any:
            self._check(noun, *args, **options)
            return self._start(noun._face, partial(self.function, noun, *args, **options))

        return update_wrapper(method, self.function)

    def _start(self, face: Any, call: Callable[[], Any]) -> Any:
        """Return what the method of a face returns for a call in the calling thread."""
        raise NotImplementedError

    def _bound(self, noun: Noun[Any] | None) -> Any:
        return self if noun is None else MethodType(self._methods[type(noun._face)], noun)


class Operation(_Method[P, T]):
    """An operation that returns a result, or with asyncio a coroutine of it."""

    def _start(self, face: Any, call: Callable[[], Any]) -> Any:
        return face.result(call)

    def __call__(self, noun: Noun[Any], /, *args: P.args, **options: P.kwargs) -> T:
        """Return the result in the calling thread, to another operation of the noun."""
        result: T = self.function(noun, *args, **options)
        return result

    @overload
    def __get__(self, noun: None, owner: type) -> Operation[P, T]: ...
    @overload
    def __get__(self, noun: Noun[Runner], owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, noun: Noun[AsyncRunner], owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, noun: Noun[Any] | None, owner: type) -> Any:
        return self._bound(noun)


class Reading(_Method[P, T]):
    """An operation that yields results, as an iterator or as an asynchronous iterator."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        signature = inspect.signature(function)
        self._methods[AsyncRunner].__signature__ = signature.replace(  # type: ignore[attr-defined]
            return_annotation=f"Async{signature.return_annotation}"
        )

    def _start(self, face: Any, call: Callable[[], Any]) -> Any:
        return face.items(call)

    @overload
    def __get__(self, noun: None, owner: type) -> Reading[P, T]: ...
    @overload
    def __get__(self, noun: Noun[Runner], owner: type) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, noun: Noun[AsyncRunner], owner: type) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, noun: Noun[Any] | None, owner: type) -> Any:
        return self._bound(noun)


def operation(function: Callable[Concatenate[Any, P], T]) -> Operation[P, T]:
    """Declare a method that returns a result."""
    return Operation(function)


def reading(function: Callable[Concatenate[Any, P], Iterator[T | None]]) -> Reading[P, T]:
    """Declare a method that yields results; None stands for "none yet"."""
    return Reading(function)
