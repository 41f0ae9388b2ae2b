"""Operations as methods of two faces: in the calling thread, or awaited with asyncio."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import cached_property, partial, reduce, update_wrapper
from operator import or_
from types import MethodType, UnionType
from typing import (
    Annotated,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    overload,
)

from keyleash.operations.arguments import argument_check, hints_of, show_filters
from keyleash.operations.run import AsyncRunner, Runner
from keyleash.operations.types import Param
from keyleash.store.store import Store

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Runner | AsyncRunner)
"""The runner of a noun: sync or asyncio."""


class Noun(Generic[F]):
    """Operations on one noun, bound to a server.

    The bodies of its methods run in the calling thread or in a worker thread, and see the sync
    runner in both.
    """

    def __init__(self, face: F) -> None:
        self._face: F = face
        self._runner: Runner = face.sync


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an operation.

    Attributes:
        name, kind, default: As in `inspect.Parameter`.
        type: Its type without annotations.
        param: What its annotations add, the outer ones first.
    """

    name: str
    kind: Any
    default: Any
    type: Any
    param: Param

    @property
    def is_required(self) -> bool:
        """True if a call needs it."""
        return self.default is inspect.Parameter.empty and not self.is_many

    @property
    def is_many(self) -> bool:
        """True if it takes all arguments by place."""
        return self.kind is inspect.Parameter.VAR_POSITIONAL

    @property
    def is_by_place(self) -> bool:
        """True if it may be given by place."""
        return self.kind is not inspect.Parameter.KEYWORD_ONLY


class _Declared(Generic[P, T]):
    """A function as a method of two faces, which checks its arguments at once.

    Args:
        function: A function of a store, or a method that runs in the calling thread.
        command: See `operation`.
        is_of_store: Whether it is a function of a store.
    """

    def __init__(
        self, function: Callable[..., Any], command: str = "", is_of_store: bool = False
    ) -> None:
        show_filters(function)
        self.function = function
        self.command = command
        self._is_of_store = is_of_store
        update_wrapper(self, function)  # type: ignore[arg-type]
        self._check = argument_check(function)
        self._methods = {Runner: self._method(), AsyncRunner: self._method()}

    def __set_name__(self, owner: type, name: str) -> None:
        for method in self._methods.values():
            method.__name__, method.__qualname__ = name, f"{owner.__name__}.{name}"

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters by name, without the first."""
        hints = hints_of(self.function, include_extras=True)
        return {
            item.name: Parameter(item.name, item.kind, item.default, *_plain(hints[item.name]))
            for item in [*inspect.signature(self.function).parameters.values()][1:]
        }

    def _method(self) -> Callable[..., Any]:
        def method(noun: Noun[Any], *args: Any, **options: Any) -> Any:
            for name, value in self._check(noun, *args, **options).items():
                parameter = self.parameters.get(name)
                if parameter and parameter.param.check and value is not None:
                    for item in value if parameter.is_many else (value,):
                        parameter.param.check(name, item)
            function = (
                partial(noun._runner.call, self.function)
                if self._is_of_store
                else partial(self.function, noun)
            )
            return self._start(noun._face, partial(function, *args, **options))

        return update_wrapper(method, self.function)

    def _called(self, first: Any, *args: Any, **options: Any) -> Any:
        function = self._bound(first) if isinstance(first, Noun) else None
        return (function or partial(self.function, first))(*args, **options)

    def _start(self, face: Any, call: Callable[[], Any]) -> Any:
        """Return what the method of a face returns for a call in the calling thread."""
        raise NotImplementedError

    def _bound(self, noun: Noun[Any] | None) -> Any:
        return self if noun is None else MethodType(self._methods[type(noun._face)], noun)


class Operation(_Declared[P, T]):
    """An operation that returns a result, or with asyncio a coroutine of it."""

    def _start(self, face: Any, call: Callable[[], Any]) -> Any:
        return face.result(call)

    def __call__(self, first: Any, /, *args: P.args, **options: P.kwargs) -> T:
        """Return the result in the calling thread, for a store; of a method for its noun."""
        result: T = self._called(first, *args, **options)
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


class Reading(_Declared[P, T]):
    """An operation that yields results, as an iterator or as an asynchronous iterator."""

    def __init__(self, function: Callable[..., Any], *declared: Any) -> None:
        super().__init__(function, *declared)
        signature = inspect.signature(function)
        self._methods[AsyncRunner].__signature__ = signature.replace(  # type: ignore[attr-defined]
            return_annotation=f"Async{signature.return_annotation}"
        )

    def __call__(self, first: Any, /, *args: P.args, **options: P.kwargs) -> Iterator[T]:
        """Return the results in the calling thread; see `Operation`."""
        results: Iterator[T] = self._called(first, *args, **options)
        return results

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


def operation(command: str = "") -> Callable[[Callable[Concatenate[Store, P], T]], Operation[P, T]]:
    """Declare a function of a store as an operation.

    Args:
        command: Its command of `keyleash`; empty if it has none.
    """
    return lambda function: Operation(function, command, is_of_store=True)


def reading(
    command: str = "",
) -> Callable[[Callable[Concatenate[Store, P], Iterator[T | None]]], Reading[P, T]]:
    """Declare a function of a store that yields results as an operation; see `operation`.

    None stands for "none yet".
    """
    return lambda function: Reading(function, command, True)


def method(command: str = "") -> Callable[[Callable[Concatenate[Any, P], T]], Operation[P, T]]:
    """Declare a method of a noun that returns a result; see `operation`."""
    return lambda function: Operation(function, command)


def _plain(hint: Any) -> tuple[Any, Param]:
    """Return a type without its annotations, and the annotations as one."""
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        plain, param = _plain(kind)
        for note in notes:
            param = note.over(param)
        return plain, param
    if get_origin(hint) in (Union, UnionType):
        parts = [_plain(item) for item in get_args(hint)]
        param = reduce(lambda inner, part: part[1].over(inner), parts, Param())
        return reduce(or_, [kind for kind, _ in parts]), param
    return hint, Param()
