"""Collect every error code with its messages and help, from the source that raises them.

Text that depends on the call is a placeholder: a name in upper case, or `…` without a name.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tools.error_summaries import SUMMARIES

import keyleash
from keyleash.cli.failures import Failure
from keyleash.errors import DENIALS, EXIT_CODES, KeyleashError, OperationError, UsageError
from keyleash.errors.operations import FAILED
from keyleash.errors.sentences import REASONS, Door
from keyleash.store.failures import ServerFailure
from keyleash.text import counted

FAILURES = (Failure, ServerFailure)
OMITTED = "…"
PLACEHOLDERS = {
    "details": "key",
    "error": "reason",
    "flags": "options",
    "folded": "name",
    "foreign": "names",
    "has": "reason",
    "holder": "pid",
    "message": "reason",
    "present": "file",
    "record": "version",
    "rejected": "reason",
    "risk": "reason",
    "several": "events",
    "strerror": "reason",
    "untrusted": "number",
    "wanted": "event",
    "widened": "identity",
    "wrong": "reason",
}
"""Clearer names of values."""
DEPTH = 2
"""How many variables and functions are followed to a text."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Message:
    """An error message, and its help or None; that of a denial is for the agent.

    Attributes:
        operator: The help of a denial for the operator.
    """

    text: str
    help: str | None
    operator: str = ""


@dataclass
class ErrorCode:
    """An error code.

    Attributes:
        cls: The class of its errors; None if only the CLI reports it.
        exit_codes: The exit codes of the CLI.
        messages: The messages, in the order of the source.
    """

    code: str
    cls: type[KeyleashError] | None = None
    exit_codes: set[int] = field(default_factory=set)
    messages: list[Message] = field(default_factory=list)

    @property
    def is_denial(self) -> bool:
        """True for a reply code of guards."""
        return self.code in DENIALS

    @property
    def has_own_class(self) -> bool:
        """True if the docstring of the class describes this code."""
        return self.cls is not None and not issubclass(self.cls, OperationError)

    @property
    def causes(self) -> dict[str, list[str]]:
        """The remedies of each message; `…` is one that depends on the call alone."""
        found: dict[str, list[str]] = {}
        for message in self.messages:
            found.setdefault(message.text, []).extend([message.help] if message.help else [])
        return {
            text: [help_ for help_ in helps if help_ != OMITTED] for text, helps in found.items()
        }

    @property
    def summary(self) -> str:
        """The first line of the docstring of its class, or the text in SUMMARIES."""
        if self.has_own_class:
            return (inspect.getdoc(self.cls) or "").partition("\n")[0]
        return SUMMARIES[self.code]

    def add(self, message: Message) -> None:
        """Add a message, unless it is known."""
        if message not in self.messages:
            self.messages.append(message)


@cache
def error_codes() -> dict[str, ErrorCode]:
    """Return all codes: the denials in the order of `ReplyCode`, then the others by name."""
    found = {str(code): ErrorCode(str(code), cls, {FAILED}) for code, cls in DENIALS.items()}
    for denial, reasons in REASONS.items():
        for reason in reasons:
            texts = (_filled(text) for text in (reason.sentence, reason.agent, reason.operator))
            found[denial].add(Message(*texts))
    classes = [cls for cls in _subclasses(KeyleashError) if str(cls.code) not in found]
    others = {
        cls.code: ErrorCode(cls.code, cls, {cls.exit_code})
        for cls in classes
        if not issubclass(cls, OperationError)
    }
    for module in pkgutil.walk_packages(keyleash.__path__, "keyleash."):
        if module.name.endswith("__main__") or ".demo" in module.name:
            continue
        for code, raised, exit_code, message in _source(module.name).errors():
            if code in found or not (re.search(r"\w", message.text) or code in others):
                continue
            error = others.setdefault(code, ErrorCode(code))
            error.cls = error.cls or raised
            error.exit_codes.add(exit_code)
            error.add(message)
    return found | dict(sorted(others.items()))


def _subclasses(cls: type[KeyleashError]) -> Iterator[type[KeyleashError]]:
    for subclass in cls.__subclasses__():
        if "code" in vars(subclass):
            yield subclass
        yield from _subclasses(subclass)


def _filled(template: str) -> str:
    """Return a format string with placeholders for its fields: `{key}` becomes `KEY`."""
    fields = {name for _, name, _, _ in string.Formatter().parse(template) if name}
    texts = {name: f"<<{name}>>" for name in fields} | {"door": Door.PYTHON}
    return _with_placeholders(template.format_map(texts))


def _with_placeholders(text: str) -> str:
    """Replace `<<name>>` by an upper-case name, `<<>>` by an ellipsis, and omit parts of words."""
    text = re.sub(r"(?<=[\w>])(?<!<)<<\w*>>|(?<=\w`)<<\w*>>|<<\w*>>(?=\w)", "", text)
    text = re.sub(r"<<(\w+)>>", lambda match: match[1].upper(), text)
    return re.sub(r"(<<>>)+", OMITTED, text)


@cache
def _source(module: str) -> _Source:
    return _Source(module)


class _Source:
    """A module, searched for the errors that it raises."""

    def __init__(self, name: str) -> None:
        module = importlib.import_module(name)
        self._tree = ast.parse(inspect.getsource(module) or "pass")
        self._names = vars(module)
        self._functions = {
            node.name: node for node in ast.walk(self._tree) if isinstance(node, Function)
        }
        self._calls = list(_calls(self._tree))
        self._depth = 0

    def errors(self) -> Iterator[tuple[str, type[KeyleashError] | None, int, Message]]:
        """Yield code, class, exit code and message of each error."""
        for call, function, cls in self._calls:
            is_own = ast.unparse(call.func) == "super().__init__"
            raised: Any = self._names.get(cls if is_own else getattr(call.func, "id", ""))
            if raised not in FAILURES and (not _is_error(raised) or raised is UsageError):
                continue
            called = raised.__mro__[1] if is_own else raised
            names = list(inspect.signature(called.__init__).parameters)[1:]
            if raised in FAILURES:
                raised = None
            given = dict(zip(names, call.args, strict=False))
            given |= {item.arg: item.value for item in call.keywords if item.arg}
            default = ast.Constant(getattr(raised, "code", ""))
            code = getattr(given.get("code", default), "value", None)
            if not isinstance(code, str) or "message" not in given:
                continue
            exit_code = EXIT_CODES.get(code, FAILED if raised is None else raised.exit_code)
            if "exit_code" in given:
                exit_code = self._number(given["exit_code"])
            helps = self._texts(given.get("help", ast.Constant(None)), function)
            for text, help_ in itertools.product(self._texts(given["message"], function), helps):
                message = Message(re.sub(f"{OMITTED}+", OMITTED, text or ""), help_)
                yield code, raised, exit_code, message

    def returned(self, name: str) -> list[str | None]:
        """Return the texts that a function returns."""
        function = self._functions.get(name)
        nodes = ast.walk(function) if function else ()
        return self._all(
            (node.value, function) for node in nodes if isinstance(node, ast.Return) and node.value
        )

    def _number(self, value: ast.expr) -> int:
        if isinstance(value, ast.Constant) and isinstance(value.value, int):
            return value.value
        number: int = self._names.get(ast.unparse(value), FAILED)
        return number

    def _texts(self, value: ast.expr, function: Function | None) -> list[str | None]:
        """Return the texts that an expression can have."""
        match value:
            case ast.Constant(value=str() | None as text):
                return [text]
            case ast.JoinedStr(values=parts):
                text = "".join(map(self._part, parts)).replace("\n", " ")
                return [_with_placeholders(text)]
            case ast.BinOp(left=left, right=right):
                pairs = itertools.product(self._texts(left, function), self._texts(right, function))
                return [f"{start or ''}{end or ''}" for start, end in pairs]
            case ast.IfExp(body=body, orelse=orelse):
                return self._texts(body, function) + self._texts(orelse, function)
            case ast.Name(id=name) if isinstance(self._names.get(name), str):
                return [self._names[name]]
            case ast.Name(id=name) if function is not None:
                return self._variable(name, function)
            case ast.Call(func=ast.Attribute(value=inner, attr="format"), args=values):
                words = [getattr(item, "value", OMITTED) for item in values]
                return [text and text.format(*words) for text in self._texts(inner, function)]
            case ast.Call(func=ast.Name(id=name)) if inspect.isfunction(self._names.get(name)):
                return _source(self._names[name].__module__).returned(name)
        return [OMITTED]

    def _part(self, part: ast.expr) -> str:
        """Return a part of an f-string, with values as `<<name>>`."""
        match part:
            case ast.Constant(value=text):
                return str(text)
            case ast.FormattedValue(value=ast.Name(id=name)) if isinstance(
                text := self._names.get(name), str | int
            ):
                return str(text)
            case ast.FormattedValue(value=ast.IfExp(body=ast.Constant(value=str(text)))):
                return text
            case ast.FormattedValue(
                value=ast.Call(func=ast.Name(id="counted"), args=[_, ast.Constant(value=str(noun))])
            ):
                return f"<<number>>{counted(2, noun)[1:]}"
            case ast.FormattedValue(value=value):
                return f"<<{PLACEHOLDERS.get(name := _name_of(value), name)}>>"
        return "<<>>"

    def _variable(self, name: str, function: Function) -> list[str | None]:
        """Return the texts of a variable, or of a parameter in the calls of *function*."""
        values: list[tuple[ast.expr, Function | None]] = [
            (node.value, function)
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
        ]
        arguments = function.args
        parameters = [item.arg for item in arguments.args if item.arg != "self"]
        if name in parameters and function.name != "__init__":
            place = parameters.index(name)
            default = place - len(parameters) + len(arguments.defaults)
            if default >= 0:
                values.append((arguments.defaults[default], None))
            for call, caller, _ in self._calls:
                if getattr(call.func, "id", getattr(call.func, "attr", "")) == function.name:
                    keywords = {item.arg: item.value for item in call.keywords}
                    given = keywords.get(name) or next(iter(call.args[place : place + 1]), None)
                    if given is not None:
                        values.append((given, caller))
        return self._all(values)

    def _all(self, values: Iterable[tuple[ast.expr, Function | None]]) -> list[str | None]:
        if self._depth == DEPTH:  # A variable may be made from itself.
            return [OMITTED]
        self._depth += 1
        found = [text for value, function in values for text in self._texts(value, function)]
        self._depth -= 1
        return list(dict.fromkeys(found)) or [OMITTED]


def _name_of(value: ast.expr) -> str:
    """Return a name for a value in a text; empty if none is found."""
    match value:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_")
        case ast.Call(func=ast.Name(id="len")):
            return "number"
        case ast.Call(args=[inner, *_]) | ast.Call(func=ast.Attribute(value=inner)):
            return _name_of(inner)
        case ast.GeneratorExp(generators=[ast.comprehension(iter=inner), *_]):
            return _name_of(inner)
        case (
            ast.Subscript(value=inner)
            | ast.BinOp(left=inner)
            | ast.IfExp(body=inner)
            | ast.BoolOp(values=[inner, *_])
        ):
            return _name_of(inner)
    return ""


def _is_error(cls: object) -> bool:
    return inspect.isclass(cls) and issubclass(cls, KeyleashError)


def _calls(
    node: ast.AST, function: Function | None = None, cls: str = ""
) -> Iterator[tuple[ast.Call, Function | None, str]]:
    """Yield the calls below *node*, with the function and the class that they are in."""
    if isinstance(node, Function):
        function = node
    elif isinstance(node, ast.ClassDef):
        cls = node.name
    elif isinstance(node, ast.Call):
        yield node, function, cls
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, function, cls)
