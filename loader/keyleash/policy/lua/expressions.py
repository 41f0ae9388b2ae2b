"""Expressions of a Lua text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum, auto

from keyleash.policy.lua.names import (
    BASE,
    JOIN,
    KEY,
    LATER_MEMBERS,
    LEFT,
    LIBRARIES,
    METHOD,
    NUMBER,
    RESP3,
    STRING_MEMBERS,
    TICKS,
)
from keyleash.policy.lua.reader import Reader
from keyleash.policy.lua.tokens import LuaError, quoted, syntax_error

ITEMS_HELD = 50
"""The items of a list that Lua holds before it puts them into their table."""
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


class Shape(Enum):
    """The kind of a suffixed expression: a statement is a call, or assigns variables."""

    VARIABLE = auto()
    CALL = auto()
    VALUE = auto()


class Expressions(Reader, ABC):
    """Reads expressions."""

    @abstractmethod
    def _function(self, *, is_method: bool = False) -> None:
        """Read a function from its parameters on; part of the statements."""

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
                raise syntax_error("`...` outside of a function with `...`", self._next)
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

    def _suffixed(self) -> Shape:
        """Read a variable, a call, or an expression in parentheses."""
        with self._expression_holds():
            return self._suffixes()

    def _suffixes(self) -> Shape:
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
            shape = Shape.VALUE
        elif first.kind == "name":
            self._take()
            library = first.text if self._resolve(first) and first.text in LIBRARIES else ""
            shape = Shape.VARIABLE
            if first.text in self._aliases:
                self._note_command()
        else:
            raise self._unexpected()
        if library:
            self._member(library)
            if library == "redis" and self._call_of_redis():
                shape = Shape.CALL
        while True:
            if self._is("."):
                self._dot(start)
                key = None
                shape = Shape.VARIABLE
            elif self._is("["):
                key = self._index(start)
                shape = Shape.VARIABLE
            elif self._is(":"):
                self._method(start)
                shape = Shape.CALL
            elif self._is("(", "{") or self._next.kind == "string":
                self._arguments()
                shape = Shape.CALL
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
        if name.text not in LIBRARIES[library] | LATER_MEMBERS.get(library, frozenset()):
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
        if not self._note_command():
            return False
        self._open_arguments()
        self._emit("(")
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

    def _note_command(self) -> bool:
        """Note the command of a call of `redis.call`; return whether it begins with a text."""
        # Nothing follows the end of the text.
        if not self._is("(") or (following := self._all[self._at + 1]).kind != "string":
            self._commands = None
            return False
        # A name that goes on is computed.
        if self._all[self._at + 2].text not in (",", ")"):
            self._commands = None
            return True
        name = following.text.upper()
        self._places.setdefault(name, (following.line, following.column))
        if self._commands is not None:
            self._commands.add(name)
            if name == "KEYS":
                # The sandbox makes it of rounds of SCAN.
                self._commands.add("SCAN")
                self._uses.add("listing")
        return True

    def _joins(self, start: int) -> bool:
        """Return whether the tokens since *start* join texts, or name a variable that does."""
        tokens = self._all[start : self._at]
        return any(
            token.text == ".." if token.kind == "sign" else token.text in self._made
            for token in tokens
            if token.kind in ("sign", "name")
        )

    def _open_arguments(self) -> None:
        """Skip the `(` before arguments."""
        if self._all[self._at - 1].line != self._next.line:
            raise syntax_error("a call whose `(` is on another line is ambiguous", self._next)
        self._at += 1

    def _arguments(self, *, of_method: bool = False) -> None:
        """Read arguments; those of a method follow its name, in parentheses that are open."""
        is_list = self._is("(")
        if is_list:
            self._open_arguments()
        elif not (self._is("{") or self._next.kind == "string"):
            raise self._unexpected()
        is_empty = is_list and self._is(")")
        if not of_method:
            self._emit("(")
        elif not is_empty:
            self._emit(",")
        if is_list:
            if not is_empty:
                self._expressions()
            self._expect(")")
            return
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
        if self._all[self._at + 1].text in STRING_MEMBERS:
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
            raise syntax_error(f"a name expected near {name.shown}", name)
        self._at += 1
        self._emit(quoted(name.text))
        self._hold(2)
        self._arguments(of_method=True)
