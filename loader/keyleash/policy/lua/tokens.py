"""The tokens of a Lua text, and the errors of one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

_WORDS = frozenset((
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local",
    "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
))  # fmt: skip
_TOKEN = re.compile(
    r"""(?P<space>\s+|--(?!\[=*\[)[^\r\n]*)
    |(?P<long>(?:--)?\[(?P<level>=*)\[(?:.*?)\](?P=level)\])
    |(?P<name>[A-Za-z_]\w*)
    |(?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<string>"(?:\\(?:\r\n|.)|[^"\\\r\n])*"|'(?:\\(?:\r\n|.)|[^'\\\r\n])*')
    |(?P<sign>\.\.\.|\.\.|==|~=|<=|>=|-(?!-)|[+*/%^\#<>=(){}\[\];:,.])""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_ESCAPE = re.compile(r"\\(?:(\d{1,3})|(\r\n|.))", re.DOTALL)
_ESCAPES = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))


class LuaError(Exception):
    """A problem of a text.

    Attributes:
        code: The code of the problem in a policy.
        line, column: Its place, from 1.
    """

    def __init__(self, code: str, message: str, token: Token, help: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.line, self.column = token.line, token.column
        self.help = help


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    line: int
    column: int

    @property
    def shown(self) -> str:
        """The token in a message."""
        return "the end of the text" if self.kind == "end" else f"`{self.text[:40]}`"


def read_tokens(text: str) -> Iterator[Token]:
    at, line, start = 0, 1, 0
    if text.startswith("#!"):
        at = len(text.partition("\n")[0])
    while at < len(text):
        match = _TOKEN.match(text, at)
        here = Token("", text[at], line, at - start + 1)
        if match is None:
            unfinished = text[at] in "\"'" or text.startswith(("[[", "[=", "--"), at)
            what = "unfinished text" if unfinished else f"unexpected `{text[at]}`"
            raise syntax_error(what, here)
        value, kind = match[0], match.lastgroup or ""
        if kind == "number" and re.match(r"[\w.]", text[match.end() : match.end() + 1]):
            raise syntax_error("malformed number", here)
        if kind == "long" and not value.startswith("--"):
            size = 2 + len(match["level"])
            content = re.sub(r"\r\n|\n\r|\r", "\n", value[size:-size])
            yield Token("string", content.removeprefix("\n"), line, here.column)
        elif kind == "string":
            yield Token("string", _ESCAPE.sub(_unescaped(here), value[1:-1]), line, here.column)
        elif kind == "name" and value in _WORDS:
            yield Token("sign", value, line, here.column)
        elif kind in ("name", "number", "sign"):
            yield Token(kind, value, line, here.column)
        line += value.count("\n")
        at = match.end()
        if "\n" in value:
            start = at - len(value) + value.rindex("\n") + 1
    yield Token("end", "the end of the text", line, at - start + 1)


def _unescaped(token: Token) -> Callable[[re.Match[str]], str]:
    def unescape(match: re.Match[str]) -> str:
        if match[1] is None:
            return "\n" if match[2] in ("\r\n", "\r") else _ESCAPES.get(match[2], match[2])
        if int(match[1]) > 255:
            raise syntax_error("escape sequence too large", token)
        return chr(int(match[1]))

    return unescape


def syntax_error(what: str, token: Token) -> LuaError:
    return LuaError("script-syntax", what, token, "write Lua 5.1, as `redis-cli EVAL` takes it")


def too_complex(message: str, token: Token, help: str) -> LuaError:
    """Return the error of a text that Lua would not compile, or only just."""
    return LuaError("script-too-complex", message, token, help)


def joined(tokens: list[str]) -> str:
    """Return tokens as text, with a space where two would become one."""
    parts: list[str] = []
    for before, token in pairwise(["\n", *tokens]):
        if (_is_word(before[-1]) and _is_word(token[0])) or before == token == "-":
            parts.append(" ")
        parts.append(token)
    return "".join(parts)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def quoted(value: str) -> str:
    return '"' + re.sub(r"[^ !#-\[\]-~]", lambda match: f"\\{ord(match[0]):03d}", value) + '"'
