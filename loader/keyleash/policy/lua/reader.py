"""A reader of tokens, which writes them again and counts the variables and values of functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from keyleash.policy.lua.names import FUNCTIONS, LIBRARIES, OWN
from keyleash.policy.lua.tokens import (
    LuaError,
    Token,
    quoted,
    read_tokens,
    syntax_error,
    too_complex,
)

MAX_DEPTH = 100
"""Lua nests up to 200 levels; what is written nests deeper than what was read."""
MAX_LOCALS = 120
"""Lua has 200 in a function, some of which the sandbox takes."""
MAX_UPVALUES = 50
"""Lua has 60 in a function."""
MAX_VALUES = 230
"""Lua has 250 registers in a function, for its local variables and values of expressions."""


@dataclass(slots=True)
class Function:
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


class Reader:
    """The tokens of a text, and the functions that are being read."""

    def __init__(self, text: str) -> None:
        self._all = list(read_tokens(text))
        self._at = 0
        self._line = 1
        self._depth = 0
        self._out: list[str] = []
        self._functions = [Function()]
        self._uses: set[str] = set()
        self._commands: set[str] | None = set()
        self._places: dict[str, tuple[int, int]] = {}
        self._built: list[tuple[int, int]] = []
        self._made: set[str] = set()
        # Local variables that are `redis.call`, by name alone: another of that name only adds.
        self._aliases: set[str] = set()
        # Where the key of the variable that was read last begins and ends.
        self._key: tuple[int, int] | None = None

    # Tokens.

    @property
    def _next(self) -> Token:
        return self._all[self._at]

    def _is(self, *texts: str) -> bool:
        return self._next.kind == "sign" and self._next.text in texts

    def _emit(self, text: str) -> None:
        self._out.append(text)

    def _take(self) -> Token:
        token = self._next
        self._at += 1
        # Each token stays in its line, so that errors name it.
        if token.line > self._line:
            self._emit("\n" * (token.line - self._line))
            self._line = token.line
        self._emit(quoted(token.text) if token.kind == "string" else token.text)
        return token

    def _accept(self, text: str) -> bool:
        if self._is(text):
            self._take()
            return True
        return False

    def _expect(self, text: str) -> Token:
        if not self._is(text):
            raise syntax_error(f"`{text}` expected near {self._next.shown}", self._next)
        return self._take()

    def _unexpected(self) -> LuaError:
        return syntax_error(f"unexpected {self._next.shown}", self._next)

    def _name(self) -> Token:
        if self._next.kind != "name":
            raise syntax_error(f"a name expected near {self._next.shown}", self._next)
        return self._take()

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise too_complex(
                f"the script nests more than {MAX_DEPTH} levels",
                self._next,
                "split it, with local variables for parts of expressions",
            )

    # Names.

    def _declare(self, token: Token) -> None:
        if token.text in OWN:
            raise self._unknown(token)
        function = self._functions[-1]
        function.scopes[-1].append(token.text)
        if function.local_count > MAX_LOCALS:
            raise too_complex(
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
            raise too_complex(
                f"an expression and the local variables have more than {MAX_VALUES} values",
                self._next,
                "use fewer arguments or operands, or a table",
            )

    def _resolve(self, token: Token) -> bool:
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

    def _capture(self, above: int, token: Token) -> None:
        for function in self._functions[len(self._functions) - above :]:
            function.upvalues.add(token.text)
            if len(function.upvalues) > MAX_UPVALUES:
                raise too_complex(
                    f"a function uses more than {MAX_UPVALUES} variables of others",
                    token,
                    "split it, or pass them in a table",
                )

    @staticmethod
    def _unknown(token: Token) -> LuaError:
        return LuaError(
            "script-unknown-global",
            f"an approved script has no global `{token.text[:40]}`",
            token,
            "use local variables, `redis.call`, and the libraries in docs/reference/scripts.md",
        )
