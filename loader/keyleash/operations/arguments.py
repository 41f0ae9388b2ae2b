"""Check the arguments of public methods by their annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import cache, wraps
from types import SimpleNamespace, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from keyleash.store.token import reject_tokens

C = TypeVar("C", bound=type)

MAY_BE_TOKENS = frozenset({"token", "token_id", "which", "document", "url", "hashes", "command"})
"""Parameters that may be tokens, or whose functions have an error for one."""


def checked(cls: C) -> C:
    """Let public methods check their arguments.

    Raises:
        TypeError: by a method: an argument is not of the type of its annotation. The error names
            the parameter, and does not contain the argument.
        SecretInTextError: by a method: a text contains a token, which a later error would show.
    """
    for name, member in list(vars(cls).items()):
        if name.startswith("_") and name != "__init__":
            continue
        kind = type(member) if isinstance(member, classmethod | staticmethod) else None
        function = member.__func__ if kind else member
        if inspect.isfunction(function):
            wrapped = _checked(function)
            setattr(cls, name, kind(wrapped) if kind else wrapped)
    return cls


def show_filters(function: Callable[..., Any]) -> None:
    """Show the names of `**filters: Unpack[Filters]` as parameters of a function, None by default.

    Annotations in its module are texts; `Filters` is a `TypedDict` that the module imports.
    """
    signature = inspect.signature(function)
    *parameters, last = signature.parameters.values()
    if last.kind is not last.VAR_KEYWORD:
        return
    types = function.__globals__[last.annotation.removeprefix("Unpack[")[:-1]].__annotations__
    parameters += [
        inspect.Parameter(name, last.KEYWORD_ONLY, default=None, annotation=item.__forward_arg__)
        for name, item in types.items()
    ]
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    del function.__annotations__[last.name]
    function.__annotations__ |= types


def hints_of(function: Callable[..., Any], *, include_extras: bool = False) -> dict[str, Any]:
    """Return the types of the parameters of a function, without that of the store."""
    # Without that of the result, whose names may be there for type checkers only.
    texts = dict(function.__annotations__)
    texts.pop("return", None)
    texts.pop("store", None)
    named: Any = SimpleNamespace(__annotations__=texts)
    return get_type_hints(named, globalns=function.__globals__, include_extras=include_extras)


def argument_check(function: Callable[..., Any]) -> Callable[..., Mapping[str, Any]]:
    """Return the check of the arguments of a function, which gives them by name; see `checked`."""

    @cache
    def known() -> tuple[inspect.Signature, dict[str, Any]]:
        return inspect.signature(function), hints_of(function)

    def check(*args: Any, **options: Any) -> Mapping[str, Any]:
        signature, hints = known()
        arguments = signature.bind(*args, **options).arguments
        for name, value in arguments.items():
            if name not in hints:
                continue
            is_many = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
            for item in value if is_many else (value,):
                if not _fits(item, hints[name]):
                    raise TypeError(f"`{name}` must be {_shown(hints[name])}, not {_type_of(item)}")
                if name not in MAY_BE_TOKENS:
                    _check_texts(name, item)
        return arguments

    return check


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    check = argument_check(function)

    @wraps(function)
    def method(*args: Any, **options: Any) -> Any:
        check(*args, **options)
        return function(*args, **options)

    return method


def _shown(hint: Any) -> str:
    """Return a type as an annotation has it."""
    parts = get_args(hint) if get_origin(hint) is Union else (hint,)
    text = " | ".join(map(inspect.formatannotation, parts))
    return text.replace("collections.abc.", "").replace("NoneType", "None")


def _type_of(value: Any) -> str:
    """Return the type of an argument, of a collection also those of its items."""
    if isinstance(value, str):
        return "a str"
    parts: tuple[Collection[Any], ...] = ()
    if isinstance(value, Mapping):
        parts = (value.keys(), value.values())
    elif isinstance(value, Collection) and not isinstance(value, bytes):
        parts = (value,)
    items = [" | ".join(sorted({type(item).__name__ for item in part})) for part in parts if part]
    return type(value).__name__ + (f"[{', '.join(items)}]" if items else "")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return True
    if hint is None:
        return value is None
    if origin in (Union, UnionType):
        return any(_fits(value, item) for item in arguments)
    if not isinstance(value, origin):
        return hint is float and _fits(value, int)
    if isinstance(value, bool):
        return hint is bool
    if not arguments or not issubclass(origin, Collection):
        return True
    if isinstance(value, Mapping):
        return all(
            _fits(*pair) for item in value.items() for pair in zip(item, arguments, strict=True)
        )
    # A text would be taken for its letters.
    return not isinstance(value, str | bytes) and all(_fits(item, arguments[0]) for item in value)


def _check_texts(name: str, value: Any) -> None:
    is_many = isinstance(value, Collection) and not isinstance(value, str)
    for text in value if is_many else (value,):
        if isinstance(text, str):
            reject_tokens(**{name: text})
