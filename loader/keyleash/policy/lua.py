"""Read the Lua text of an approved script, and write it for the sandbox of a guard.

The text is written again from its tokens, so the server reads what was read here. Names that the
sandbox lacks are errors. Loops and functions count their rounds, and what a server's own strings
would do without a count goes through functions of the sandbox: `..`, methods, members, texts as
numbers, and keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import pairwise

LIBRARIES: dict[str, frozenset[str]] = {
    name: frozenset(members.split())
    for name, members in {
        "redis": "call pcall sha1hex status_reply error_reply log setresp replicate_commands"
        " LOG_DEBUG LOG_VERBOSE LOG_NOTICE LOG_WARNING",
        "string": "byte char find format gmatch gsub len lower match rep reverse sub upper",
        "table": "concat getn insert maxn remove sort",
        "math": "abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp huge ldexp log"
        " log10 max min mod modf pi pow rad random sin sinh sqrt tan tanh",
        "bit": "arshift band bnot bor bswap bxor lshift rol ror rshift tobit tohex",
        "cjson": "decode encode null",
        "cmsgpack": "pack unpack",
        "struct": "pack size unpack",
    }.items()
}
"""The libraries of the sandbox, and their members."""

_LATER = {"table": frozenset({"pack", "unpack"})}
"""Members of later versions of Lua, for which a text may ask: they are nil, as on a server."""

FUNCTIONS = frozenset((
    "assert", "error", "ipairs", "next", "pairs", "pcall", "rawequal", "select", "tonumber",
    "tostring", "type", "unpack",
))  # fmt: skip
"""The global functions of the sandbox."""

TICK, TICKS, JOIN, METHOD, BASE, LEFT = "__t", "__v", "__c", "__m", "__b", "__l"
NUMBER, KEY = "__n", "__k"
"""Functions of the sandbox that written texts call: one round and its units; `...` and its units;
`a .. b`; `a:name()`; a value whose member is read; the left side of a comparison; what is used as a
number; the key of a member that is written."""
OWN = (TICK, TICKS, JOIN, METHOD, BASE, LEFT, NUMBER, KEY)

FLAGS = frozenset({"no-writes", "allow-oom", "allow-stale", "no-cluster", "allow-cross-slot-keys"})
"""The flags in the first line of a text. Only `no-writes` has an effect in the sandbox."""

RESP3 = "redis.setresp(3)"
"""A call that fails: guards run scripts under RESP2."""

TOKENS_OF_A_UNIT = 8
"""Tokens of the body of a loop or function that one more unit counts in each round."""
_TOKENS_OF_A_CALL = 2
"""Tokens for which a call that the sandbox adds to an operand or key counts."""
MAX_BYTES = 64 * 1024
MAX_DEPTH = 100
"""Lua nests up to 200 levels; what is written nests deeper than what was read."""
MAX_LOCALS = 120
"""Lua has 200 in a function, some of which the sandbox takes."""
MAX_UPVALUES = 50
"""Lua has 60 in a function."""
MAX_VALUES = 230
"""Lua has 250 registers in a function, for its local variables and values of expressions."""
ITEMS_HELD = 50
"""The items of a list that Lua holds before it puts them into their table."""
MAX_ASSIGNED = 90
"""Lua allows 200 less its levels."""

_STRING_MEMBERS = LIBRARIES["string"] | {"dump", "gfind"}
_WORDS = frozenset((
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local",
    "nil", "not", "or", "repeat", "return", "then", "true", "until", "while",
))  # fmt: skip
_PRIORITIES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("+", "-"), (6, 6)),
    **dict.fromkeys(("*", "/", "%"), (7, 7)),
    "^": (10, 9),
    "..": (5, 5),
    **dict.fromkeys(("==", "~=", "<", "<=", ">", ">="), (3, 3)),
    "and": (2, 2),
    "or": (1, 1),
}
_UNARY = 8
_ORDERS = ("<", "<=", ">", ">=")
_ARITHMETIC = ("+", "-", "*", "/", "%", "^", "..")
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
        code: Of the problem in a policy.
        message: What is wrong.
        line, column: Its place, from 1.
        help: What to do.
    """

    def __init__(self, code: str, message: str, token: _Token, help: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.line, self.column = token.line, token.column
        self.help = help


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int
    column: int

    @property
    def shown(self) -> str:
        """The token in a message."""
        return "the end of the text" if self.kind == "end" else f"`{self.text[:40]}`"


@dataclass(frozen=True, slots=True)
class Sandboxed:
    """A text as a guard has it.

    Attributes:
        body: The body of a function, in ASCII.
        uses: The libraries and functions of the sandbox that it uses.
        commands: The names of the commands that it calls, in upper case; None if it computes one.
        places: The first call of each command that it names, as name, line and column; also of
            `redis.setresp(3)`.
        built_keys: The places where a key's name may be put together, as line and column.
        only_reads: Whether its writes are errors, as its flag `no-writes` says.
    """

    body: str
    uses: frozenset[str]
    commands: frozenset[str] | None
    places: tuple[tuple[str, int, int], ...]
    built_keys: tuple[tuple[int, int], ...]
    only_reads: bool


def sandboxed(text: bytes) -> Sandboxed:
    """Return a text as a guard has it.

    Raises:
        LuaError: It is no Lua 5.1, too large, or uses what the sandbox lacks.
    """
    if len(text) > MAX_BYTES:
        raise LuaError(
            "script-too-large",
            f"the script has {len(text)} bytes, more than {MAX_BYTES}",
            _Token("", "", 1, 1),
            "split it",
        )
    decoded = text.decode("latin-1")
    flags = _flags(decoded) if decoded.startswith("#!") else frozenset()
    return _Parser(decoded).chunk(only_reads="no-writes" in flags)


def _flags(text: str) -> frozenset[str]:
    """Return the flags of the first line of a text."""
    line, end, _ = text.partition("\n")
    here = _Token("", line, 1, 1)
    engine, *options = line.split() if end else ("",)
    if engine != "#!lua":
        raise _syntax("a first line that begins with `#!` has to name the engine `lua`", here)
    lists = [option[6:] for option in options if option.startswith("flags=")]
    flags = frozenset(flag for item in lists if item for flag in item.split(","))
    if unknown := flags - FLAGS:
        raise _syntax(f"unknown flag `{min(unknown)[:40]}` of the script", here)
    return flags


def _tokens(text: str) -> Iterator[_Token]:
    at, line, start = 0, 1, 0
    if text.startswith("#!"):
        at = len(text.partition("\n")[0])
    while at < len(text):
        found = _TOKEN.match(text, at)
        here = _Token("", text[at], line, at - start + 1)
        if found is None:
            unfinished = text[at] in "\"'" or text.startswith(("[[", "[=", "--"), at)
            what = "unfinished text" if unfinished else f"unexpected `{text[at]}`"
            raise _syntax(what, here)
        value, kind = found[0], found.lastgroup or ""
        if kind == "number" and re.match(r"[\w.]", text[found.end() : found.end() + 1]):
            raise _syntax("malformed number", here)
        if kind == "long" and not value.startswith("--"):
            size = 2 + len(found["level"])
            content = re.sub(r"\r\n|\n\r|\r", "\n", value[size:-size])
            yield _Token("string", content.removeprefix("\n"), line, here.column)
        elif kind == "string":
            yield _Token("string", _ESCAPE.sub(_unescaped(here), value[1:-1]), line, here.column)
        elif kind == "name" and value in _WORDS:
            yield _Token("sign", value, line, here.column)
        elif kind in ("name", "number", "sign"):
            yield _Token(kind, value, line, here.column)
        line += value.count("\n")
        at = found.end()
        if "\n" in value:
            start = at - len(value) + value.rindex("\n") + 1
    yield _Token("end", "the end of the text", line, at - start + 1)


def _unescaped(token: _Token) -> Callable[[re.Match[str]], str]:
    def one_of(found: re.Match[str]) -> str:
        if found[1] is None:
            return "\n" if found[2] in ("\r\n", "\r") else _ESCAPES.get(found[2], found[2])
        if int(found[1]) > 255:
            raise _syntax("escape sequence too large", token)
        return chr(int(found[1]))

    return one_of


def _syntax(what: str, token: _Token) -> LuaError:
    return LuaError("script-syntax", what, token, "write Lua 5.1, as `redis-cli EVAL` takes it")


def _joined(tokens: list[str]) -> str:
    """Return tokens as text, with a space where two would become one."""
    parts: list[str] = []
    for before, token in pairwise(["\n", *tokens]):
        if (_is_word(before[-1]) and _is_word(token[0])) or before == token == "-":
            parts.append(" ")
        parts.append(token)
    return "".join(parts)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _quoted(value: str) -> str:
    return '"' + re.sub(r"[^ !#-\[\]-~]", lambda found: f"\\{ord(found[0]):03d}", value) + '"'


class _Shape(Enum):
    VARIABLE = auto()
    CALL = auto()
    VALUE = auto()


@dataclass(slots=True)
class _Function:
    """A function that is being read."""

    is_vararg: bool = False
    scopes: list[list[str]] = field(default_factory=lambda: [[]])
    hidden: int = 0
    upvalues: set[str] = field(default_factory=set)
    loops: int = 0
    held: int = 0
    """The values that unfinished expressions hold, at most."""
    most_held: int = 0
    """The most values that the expression that is being read held."""

    @property
    def local_count(self) -> int:
        return sum(map(len, self.scopes)) + self.hidden


class _Parser:
    """A recursive descent over the grammar of Lua 5.1."""

    def __init__(self, text: str) -> None:
        self._all = list(_tokens(text))
        self._at = 0
        self._line = 1
        self._depth = 0
        self._out: list[str] = []
        self._functions = [_Function()]
        self._uses: set[str] = set()
        self._commands: set[str] | None = set()
        self._places: dict[str, tuple[int, int]] = {}
        self._built: list[tuple[int, int]] = []
        self._made: set[str] = set()
        # Where the key of the variable that was read last begins and ends.
        self._key: tuple[int, int] | None = None

    def chunk(self, *, only_reads: bool) -> Sandboxed:
        self._block()
        if self._next.kind != "end":
            raise self._unexpected()
        return Sandboxed(
            body=_joined(self._out),
            uses=frozenset(self._uses),
            commands=None if self._commands is None else frozenset(self._commands),
            places=tuple((name, *place) for name, place in self._places.items()),
            built_keys=tuple(self._built),
            only_reads=only_reads,
        )

    # Tokens.

    @property
    def _next(self) -> _Token:
        return self._all[self._at]

    def _is(self, *texts: str) -> bool:
        return self._next.kind == "sign" and self._next.text in texts

    def _emit(self, text: str) -> None:
        self._out.append(text)

    def _take(self) -> _Token:
        token = self._next
        self._at += 1
        # Each token stays in its line, so that errors name it.
        if token.line > self._line:
            self._emit("\n" * (token.line - self._line))
            self._line = token.line
        self._emit(_quoted(token.text) if token.kind == "string" else token.text)
        return token

    def _accept(self, text: str) -> bool:
        if self._is(text):
            self._take()
            return True
        return False

    def _expect(self, text: str) -> _Token:
        if not self._is(text):
            raise _syntax(f"`{text}` expected near {self._next.shown}", self._next)
        return self._take()

    def _unexpected(self) -> LuaError:
        return _syntax(f"unexpected {self._next.shown}", self._next)

    def _name(self) -> _Token:
        if self._next.kind != "name":
            raise _syntax(f"a name expected near {self._next.shown}", self._next)
        return self._take()

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise LuaError(
                "script-too-complex",
                f"the script nests more than {MAX_DEPTH} levels",
                self._next,
                "split it, with local variables for parts of expressions",
            )

    # Names.

    def _declare(self, token: _Token) -> None:
        if token.text in OWN:
            raise self._unknown(token)
        function = self._functions[-1]
        function.scopes[-1].append(token.text)
        if function.local_count > MAX_LOCALS:
            raise LuaError(
                "script-too-complex",
                f"a function has more than {MAX_LOCALS} local variables",
                token,
                "use a table, or blocks with `do` and `end`",
            )

    @contextmanager
    def _expression_holds(self) -> Iterator[None]:
        """Read an expression, which holds no value afterwards."""
        function = self._functions[-1]
        held, most_held = function.held, function.most_held
        function.most_held = held
        yield
        function.held, function.most_held = held, max(most_held, function.most_held)

    def _hold(self, values: int = 1) -> None:
        """Count values that the expression holds until its end."""
        self._functions[-1].held += values
        self._check_held(self._functions[-1].held)

    def _hold_before(self) -> None:
        """Count a function of the sandbox that was written before the expression."""
        function = self._functions[-1]
        function.held += 1
        self._check_held(function.most_held + 1)

    def _check_held(self, held: int) -> None:
        function = self._functions[-1]
        function.most_held = max(function.most_held, held)
        if held + function.local_count > MAX_VALUES:
            raise LuaError(
                "script-too-complex",
                f"an expression and the local variables have more than {MAX_VALUES} values",
                self._next,
                "use fewer arguments or operands, or a table",
            )

    def _is_local(self, name: str) -> bool:
        return any(name in scope for item in self._functions for scope in item.scopes)

    def _resolve(self, token: _Token) -> bool:
        """Check a variable; return whether it is the sandbox's own."""
        name = token.text
        for above, function in enumerate(reversed(self._functions)):
            if any(name in scope for scope in function.scopes):
                self._capture(above, token)
                return False
        if name not in LIBRARIES and name not in FUNCTIONS and name not in ("KEYS", "ARGV"):
            raise self._unknown(token)
        self._capture(len(self._functions), token)
        self._uses.add(name)
        return True

    def _capture(self, above: int, token: _Token) -> None:
        for function in self._functions[len(self._functions) - above :]:
            function.upvalues.add(token.text)
            if len(function.upvalues) > MAX_UPVALUES:
                raise LuaError(
                    "script-too-complex",
                    f"a function uses more than {MAX_UPVALUES} variables of others",
                    token,
                    "split it, or pass them in a table",
                )

    @staticmethod
    def _unknown(token: _Token) -> LuaError:
        return LuaError(
            "script-unknown-global",
            f"an approved script has no global `{token.text[:40]}`",
            token,
            "use local variables, `redis.call`, and the libraries in docs/reference/scripts.md",
        )

    # Statements.

    def _block(self, *declared: _Token, ticks_from: int | None = None) -> None:
        """Read statements up to the end of the block, whose rounds count from a token on."""
        self._deeper()
        scope = self._functions[-1].scopes
        scope.append([])
        for token in declared:
            self._declare(token)
        place = len(self._out)
        self._statements()
        if ticks_from is not None:
            self._tick(place, ticks_from)
        scope.pop()
        self._depth -= 1

    def _tick(self, place: int, start: int) -> None:
        """Write the count of a round, whose tokens begin at *start*."""
        tokens = self._all[start : self._at]
        # A round makes each table and function of its text.
        made = sum(token.kind == "sign" and token.text in ("{", "function") for token in tokens)
        calls = sum(text in (f"{NUMBER}(", f"{KEY}(") for text in self._out[place:])
        units = 1 + made + (len(tokens) + calls * _TOKENS_OF_A_CALL) // TOKENS_OF_A_UNIT
        self._out.insert(place, f"{TICK}({units});")

    def _statements(self) -> None:
        while not self._is("end", "else", "elseif", "until") and self._next.kind != "end":
            if self._is("return", "break"):
                self._last()
                return
            self._statement()
            # A call may have been written at its end, and the next one may begin with `(`.
            if not self._accept(";"):
                self._emit(";")

    def _last(self) -> None:
        token = self._take()
        if token.text == "break":
            if not self._functions[-1].loops:
                raise _syntax("no loop to break", token)
        elif not self._is("end", "else", "elseif", "until", ";") and self._next.kind != "end":
            self._expressions()
        self._accept(";")
        if not self._is("end", "else", "elseif", "until") and self._next.kind != "end":
            raise self._unexpected()

    def _statement(self) -> None:
        if self._next.kind == "sign":
            match self._next.text:
                case "if":
                    return self._if()
                case "while":
                    start = self._at
                    self._take()
                    self._expression()
                    self._expect("do")
                    self._loop(start)
                    self._expect("end")
                    return None
                case "do":
                    self._take()
                    self._block()
                    self._expect("end")
                    return None
                case "for":
                    return self._for()
                case "repeat":
                    return self._repeat()
                case "function":
                    return self._function_statement()
                case "local":
                    return self._local()
        return self._expression_statement()

    def _if(self) -> None:
        self._take()
        self._expression()
        self._expect("then")
        self._block()
        while self._accept("elseif"):
            self._expression()
            self._expect("then")
            self._block()
        if self._accept("else"):
            self._block()
        self._expect("end")

    def _loop(self, start: int, *declared: _Token) -> None:
        self._functions[-1].loops += 1
        self._block(*declared, ticks_from=start)
        self._functions[-1].loops -= 1

    def _repeat(self) -> None:
        self._take()
        function = self._functions[-1]
        # The condition sees the variables of the block.
        function.scopes.append([])
        self._deeper()
        function.loops += 1
        place, start = len(self._out), self._at
        self._statements()
        function.loops -= 1
        self._expect("until")
        self._expression()
        self._tick(place, start)
        self._depth -= 1
        function.scopes.pop()

    def _for(self) -> None:
        self._take()
        names = [self._name()]
        if self._accept("="):
            self._expression(is_number=True)
            self._expect(",")
            self._expression(is_number=True)
            if self._accept(","):
                self._expression(is_number=True)
        else:
            while self._accept(","):
                names.append(self._name())
            self._expect("in")
            self._expressions()
        self._expect("do")
        self._functions[-1].hidden += 3
        self._loop(self._at, *names)
        self._functions[-1].hidden -= 3
        self._expect("end")

    def _function_statement(self) -> None:
        self._take()
        name = self._name()
        is_own, is_method = self._resolve(name), False
        while self._is(".", ":") and not is_method:
            is_method = self._take().text == ":"
            self._name()
            is_own = False
        if is_own:
            raise self._unknown(name)
        self._function(is_method=is_method)

    def _local(self) -> None:
        self._take()
        if self._accept("function"):
            self._declare(self._name())
            return self._function()
        names = [self._name()]
        while self._accept(","):
            names.append(self._name())
        if self._accept("="):
            start = self._at
            self._expressions()
            if self._joins(start):
                self._made.update(name.text for name in names)
        for name in names:
            self._declare(name)
        return None

    def _joins(self, start: int) -> bool:
        """Return whether the tokens since *start* join texts, or name a variable that does."""
        tokens = self._all[start : self._at]
        return any(
            token.text == ".." if token.kind == "sign" else token.text in self._made
            for token in tokens
            if token.kind in ("sign", "name")
        )

    def _expression_statement(self) -> None:
        if (shape := self._suffixed()) is _Shape.CALL:
            return
        count = 1
        with self._expression_holds():
            self._wrap_key()
            while shape is _Shape.VARIABLE and self._accept(","):
                # A table and the name of its member.
                self._hold(2)
                shape = self._suffixed()
                self._wrap_key()
                count += 1
            if shape is not _Shape.VARIABLE:
                raise self._unexpected()
            if count > MAX_ASSIGNED:
                raise LuaError(
                    "script-too-complex",
                    f"an assignment has more than {MAX_ASSIGNED} variables",
                    self._next,
                    "split it",
                )
            self._expect("=")
            self._expressions()

    # Expressions.

    def _expressions(self) -> None:
        with self._expression_holds():
            self._expression()
            while self._accept(","):
                self._hold()
                self._expression()

    def _expression(self, limit: int = 0, *, is_number: bool = False) -> None:
        """Read an expression, which is used as a number if *is_number*."""
        with self._expression_holds():
            start = len(self._out)
            if not self._operation(limit) and is_number:
                self._wrap_number(start)

    def _wrap_number(self, start: int) -> None:
        """Count the conversion of an operand, since it may be a text."""
        self._check_held(self._functions[-1].most_held + 1)
        self._out.insert(start, f"{NUMBER}(")
        self._emit(")")

    def _wrap_key(self) -> None:
        """Count the key of the variable that was read, since it may be any number."""
        if self._key is not None:
            start, end = self._key
            self._out.insert(end, ")")
            self._out.insert(start, f"{KEY}(")

    def _operation(self, limit: int) -> bool:
        """Read operands and operators; return whether the result is surely a number."""
        self._deeper()
        start, is_left = len(self._out), True
        if self._is("not", "-", "#"):
            sign = self._take().text
            self._expression(_UNARY, is_number=sign == "-")
            is_number = sign != "not"
        else:
            is_number = self._next.kind == "number"
            self._simple()
        while self._next.kind == "sign" and self._next.text in _PRIORITIES:
            operator = self._next.text
            left, right = _PRIORITIES[operator]
            if left <= limit:
                break
            if operator == "..":
                self._out.insert(start, f"{JOIN}(")
                self._hold_before()
                while self._is(".."):
                    self._at += 1
                    self._hold()
                    # In brackets, since a call counts for one value as an operand.
                    self._emit(",(")
                    self._expression(right)
                    self._emit(")")
                self._emit(")")
                is_number = False
            else:
                is_arithmetic = operator in _ARITHMETIC
                if is_arithmetic and not is_number:
                    self._wrap_number(start)
                # What was compared is no text, so a chain of comparisons nests no deeper.
                if is_left and operator in _ORDERS and not self._is_number_next():
                    is_left = False
                    self._out.insert(start, f"{LEFT}(")
                    self._hold_before()
                    self._emit(")")
                self._take()
                self._hold()
                self._expression(right, is_number=is_arithmetic)
                self._functions[-1].held -= 1
                is_number = is_arithmetic
        self._depth -= 1
        return is_number

    def _is_number_next(self) -> bool:
        """Return whether the operand after the next token is a number."""
        after = self._all[self._at + 1 : self._at + 3]
        return after[0].kind == "number" and after[-1].text not in _ARITHMETIC

    def _simple(self) -> None:
        if self._next.kind in ("number", "string") or self._is("nil", "true", "false"):
            self._take()
        elif self._is("..."):
            if not self._functions[-1].is_vararg:
                raise _syntax("`...` outside of a function with `...`", self._next)
            self._at += 1
            self._emit(f"{TICKS}(...)")
        elif self._is("{"):
            self._table()
        elif self._accept("function"):
            self._function()
        else:
            self._suffixed()

    def _table(self) -> None:
        self._expect("{")
        listed = 0
        with self._expression_holds():
            # The table, the name of a member, and items of the list.
            self._hold(2)
            while not self._is("}"):
                if self._is("["):
                    self._key = self._bracketed()
                    self._wrap_key()
                    self._expect("=")
                elif self._next.kind == "name" and self._all[self._at + 1].text == "=":
                    self._take()
                    self._expect("=")
                elif (listed := listed + 1) <= ITEMS_HELD:
                    self._hold()
                self._expression()
                if not (self._accept(",") or self._accept(";")):
                    break
        self._expect("}")

    def _function(self, *, is_method: bool = False) -> None:
        function = _Function()
        self._functions.append(function)
        if is_method:
            function.scopes[-1].append("self")
        self._expect("(")
        while not self._is(")"):
            if self._accept("..."):
                function.is_vararg = True
                break
            self._declare(self._name())
            if not self._accept(","):
                break
            if self._is(")"):
                raise self._unexpected()
        self._expect(")")
        if function.is_vararg:
            self._emit(f"{TICKS}(...);")
        self._block(ticks_from=self._at)
        self._expect("end")
        self._functions.pop()

    def _suffixed(self) -> _Shape:
        """Read a variable, a call, or an expression in parentheses."""
        with self._expression_holds():
            return self._suffixes()

    def _suffixes(self) -> _Shape:
        depth = self._depth
        self._deeper()
        # What is called or indexed.
        self._hold()
        start, first = len(self._out), self._next
        library = ""
        key = None
        if self._accept("("):
            self._expression()
            self._expect(")")
            shape = _Shape.VALUE
        elif first.kind == "name":
            self._take()
            library = first.text if self._resolve(first) and first.text in LIBRARIES else ""
            shape = _Shape.VARIABLE
        else:
            raise self._unexpected()
        if library:
            self._member(library)
            if library == "redis" and self._call_of_redis():
                shape = _Shape.CALL
        while True:
            if self._is("."):
                self._dot(start)
                key = None
                shape = _Shape.VARIABLE
            elif self._is("["):
                key = self._index(start)
                shape = _Shape.VARIABLE
            elif self._is(":"):
                self._method(start)
                shape = _Shape.CALL
            elif self._is("(", "{") or self._next.kind == "string":
                self._arguments()
                shape = _Shape.CALL
            else:
                break
        self._depth = depth
        self._key = key
        return shape

    def _member(self, library: str) -> None:
        """Read the member of a library; the library itself is no value."""
        if not self._is("."):
            if library == "redis":
                self._commands = None
            return
        self._take()
        name = self._name()
        if name.text not in LIBRARIES[library] | _LATER.get(library, frozenset()):
            raise LuaError(
                "script-unknown-global",
                f"an approved script has no `{library}.{name.text[:40]}`",
                name,
                f"`{library}` has: {', '.join(sorted(LIBRARIES[library]))}",
            )

    def _call_of_redis(self) -> bool:
        """Read the arguments of `redis.call`, and note the command."""
        member = self._all[self._at - 1]
        argument = "".join(token.text for token in self._all[self._at : self._at + 2])
        if member.text == "setresp" and argument == "(3":
            self._places.setdefault(RESP3, (member.line, member.column))
        if member.text not in ("call", "pcall"):
            return False
        # Nothing follows the end of the text.
        if not self._is("(") or (following := self._all[self._at + 1]).kind != "string":
            self._commands = None
            return False
        # A name that goes on is computed.
        if self._all[self._at + 2].text not in (",", ")"):
            self._commands = None
        else:
            name = following.text.upper()
            self._places.setdefault(name, (following.line, following.column))
            if self._commands is not None:
                self._commands.add(name)
        self._call_start()
        self._expression()
        place = 1
        while self._accept(","):
            self._hold()
            start, token = self._at, self._next
            self._expression()
            if place == 1 and self._joins(start):
                self._built.append((token.line, token.column))
            place += 1
        self._expect(")")
        return True

    def _call_start(self) -> None:
        if self._all[self._at - 1].line != self._next.line:
            raise _syntax("a call whose `(` is on another line is ambiguous", self._next)
        self._expect("(")

    def _arguments(self) -> None:
        if self._is("("):
            self._call_start()
            if not self._is(")"):
                self._expressions()
            self._expect(")")
            return
        self._emit("(")
        if self._is("{"):
            self._table()
        else:
            self._take()
        self._emit(")")

    def _wrap(self, start: int, function: str) -> None:
        # It may be a text, whose methods are those of `string`. Each call nests what is before it.
        self._deeper()
        self._hold_before()
        self._uses.add("string")
        self._out.insert(start, f"{function}(")

    def _dot(self, start: int) -> None:
        if self._all[self._at + 1].text in _STRING_MEMBERS:
            self._wrap(start, BASE)
            self._emit(")")
        self._take()
        self._name()

    def _index(self, start: int) -> tuple[int, int] | None:
        if self._all[self._at + 1].kind != "number" or self._all[self._at + 2].text != "]":
            self._wrap(start, BASE)
            self._emit(")")
        return self._bracketed()

    def _bracketed(self) -> tuple[int, int] | None:
        """Read a key in brackets; return where it is if it may be any number."""
        self._expect("[")
        first, start = self._next, len(self._out)
        with self._expression_holds():
            # A function of the sandbox may be written before it.
            self._hold()
            self._expression()
        end = len(self._out)
        self._expect("]")
        is_text = first.kind == "string" and end == start + 1
        is_small = first.text.isdecimal() and len(first.text) < 5 and end == start + 1
        return None if is_text or is_small else (start, end)

    def _method(self, start: int) -> None:
        self._wrap(start, METHOD)
        self._at += 1
        self._emit(",")
        name = self._next
        if name.kind != "name":
            raise _syntax(f"a name expected near {name.shown}", name)
        self._at += 1
        self._emit(_quoted(name.text))
        self._hold(2)
        if not (self._is("(", "{") or self._next.kind == "string"):
            raise self._unexpected()
        if self._is("("):
            if self._all[self._at - 1].line != self._next.line:
                raise _syntax("a call whose `(` is on another line is ambiguous", self._next)
            self._at += 1
            if not self._is(")"):
                self._emit(",")
                self._expressions()
        else:
            self._emit(",")
            if self._is("{"):
                self._table()
            else:
                self._take()
            self._emit(")")
            return
        self._expect(")")
