"""The statements of a Lua text, and the text as a guard has it."""

from __future__ import annotations

from dataclasses import dataclass

from keyleash.policy.lua.expressions import Expressions, Shape
from keyleash.policy.lua.names import FLAGS, KEY, NUMBER, TICK, TICKS
from keyleash.policy.lua.reader import Function
from keyleash.policy.lua.tokens import LuaError, Token, joined, syntax_error, too_complex

TOKENS_OF_A_UNIT = 8
"""Tokens of the body of a loop or function that one more unit counts in each round."""
_TOKENS_OF_A_CALL = 2
"""Tokens for which a call that the sandbox adds to an operand or key counts."""
MAX_BYTES = 64 * 1024
MAX_ASSIGNED = 90
"""Lua allows 200 less its levels."""


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
            Token("", "", 1, 1),
            "split it",
        )
    decoded = text.decode("latin-1")
    flags = _flags(decoded) if decoded.startswith("#!") else frozenset()
    return _Parser(decoded).chunk(only_reads="no-writes" in flags)


def _flags(text: str) -> frozenset[str]:
    """Return the flags of the first line of a text."""
    line, end, _ = text.partition("\n")
    here = Token("", line, 1, 1)
    engine, *options = line.split() if end else ("",)
    if engine != "#!lua":
        raise syntax_error("a first line that begins with `#!` has to name the engine `lua`", here)
    lists = [option[6:] for option in options if option.startswith("flags=")]
    flags = frozenset(flag for item in lists if item for flag in item.split(","))
    if unknown := flags - FLAGS:
        raise syntax_error(f"unknown flag `{min(unknown)[:40]}` of the script", here)
    return flags


class _Parser(Expressions):
    """A recursive descent over the grammar of Lua 5.1."""

    def chunk(self, *, only_reads: bool) -> Sandboxed:
        self._block()
        if self._next.kind != "end":
            raise self._unexpected()
        return Sandboxed(
            body=joined(self._out),
            uses=frozenset(self._uses),
            commands=None if self._commands is None else frozenset(self._commands),
            places=tuple((name, *place) for name, place in self._places.items()),
            built_keys=tuple(self._built),
            only_reads=only_reads,
        )

    def _block(self, *declared: Token, ticks_from: int | None = None) -> None:
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
                raise syntax_error("no loop to break", token)
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

    def _loop(self, start: int, *declared: Token) -> None:
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
            start, commands = self._at, self._commands
            self._expressions()
            if self._joins(start):
                self._made.update(name.text for name in names)
            value = "".join(token.text for token in self._all[start : self._at])
            if value in ("redis.call", "redis.pcall") and len(names) == 1:
                # Each further use of the name is a call, or makes the commands unknown.
                self._aliases.add(names[0].text)
                self._commands = commands
        for name in names:
            self._declare(name)
        return None

    def _expression_statement(self) -> None:
        if (shape := self._suffixed()) is Shape.CALL:
            return
        count = 1
        with self._expression_holds():
            self._wrap_key()
            while shape is Shape.VARIABLE and self._accept(","):
                # A table and the name of its member.
                self._hold(2)
                shape = self._suffixed()
                self._wrap_key()
                count += 1
            if shape is not Shape.VARIABLE:
                raise self._unexpected()
            if count > MAX_ASSIGNED:
                raise too_complex(
                    f"an assignment has more than {MAX_ASSIGNED} variables", self._next, "split it"
                )
            self._expect("=")
            self._expressions()

    def _function(self, *, is_method: bool = False) -> None:
        function = Function()
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
