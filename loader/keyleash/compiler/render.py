"""Render Lua templates: the Jinja environment, and includes that are cached across guards.

`--% cached_include "authorize/find_rule.lua" with dispatch, rare` renders a partial from the named
values alone. Its text is a function of these, so guards for which they are equal share
it; a value that the partial needs and the statement omits is an error.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context

from keyleash.commands import OperationClass, work
from keyleash.commands.facts import (
    FUNCTIONS,
    LONG_PLACE,
    PATHS,
    REFUSED_OPTIONS,
    TEXT_FUNCTIONS,
    VECTOR_OPTIONS,
)
from keyleash.commands.spec import Bound, Join, Lengthening, Size
from keyleash.commands.writes import Expiry, Target, Writes
from keyleash.compiler.ir import LimitPlan
from keyleash.compiler.match_tree import grouped
from keyleash.compiler.quoting import (
    RULE_DIGITS,
    Text,
    expand,
    holds,
    lua_literal,
    met,
    of_account,
    offset,
    option_pattern,
    records_of,
    runs_of,
    suffix,
)
from keyleash.doubles import MOST
from keyleash.limits.calendar import PERIOD_US
from keyleash.limits.caps import CAP_COUNTERS
from keyleash.limits.rate import MAX_EMISSION_US, MAX_RING_SLOTS, MIN_EMISSION_US
from keyleash.policy.model import MAX_DEPTH
from keyleash.policy.sections import MAX_THRESHOLD
from keyleash.store.scripts import lua_root, shipped
from keyleash.store.state import MAX_REASON_BYTES
from keyleash.store.token import (
    ASKING_ID,
    CAP_BYTES,
    CAP_FORMAT,
    CAP_USED_OFFSET,
    CHAIN_BYTES,
    FLAG_BOUND,
    FLAG_CHILD,
    FLAG_ROTATED,
    ID_CHARS,
    MOST_TAIL_BYTES,
    RECORD_BYTES,
    TAIL_HEADER_BYTES,
)

LETTERS = (Bound, Expiry, Join, Lengthening, Size, Target, Writes)
"""The enums whose members are letters in the facts about commands that Lua reads."""

CACHED_TEXTS = 1024
"""Enough for the partials of hundreds of identities that differ."""


class IncludeContext(Context):
    """A context that does not list all globals: a guard includes a hundred partials.

    Jinja needs the list only for templates that import others.
    """

    def __init__(self, *arguments: Any, globals: object = None) -> None:
        del globals
        super().__init__(*arguments)


class LuaTemplates(Extension):
    """A Jinja extension: strips sources and adds the statement `cached_include`."""

    tags = {"cached_include"}  # noqa: RUF012 - jinja2's own word

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Remove comments, blank lines and indentation.

        The server stores every byte of a script. Stripping is safe because no literal spans lines.
        """
        lines = map(str.strip, source.splitlines())
        return "".join(
            f"{line}\n"
            for line in lines
            if line and (line.startswith("--%") or not line.startswith("--"))
        )

    def parse(self, parser: Parser) -> nodes.Node:
        """Read `cached_include TEMPLATE with NAME, NAME…`."""
        line = next(parser.stream).lineno
        template = parser.parse_primary()
        parser.stream.expect("name:with")
        values = []
        while True:
            name = parser.parse_assign_target(name_only=True).name
            values.append(nodes.Keyword(name, nodes.Name(name, "load")))
            if not parser.stream.skip_if("comma"):
                break
        text = self.call_method("_text", [template], values)
        return nodes.Output([text]).set_lineno(line)

    def _text(self, template: str, **values: object) -> Text:
        return _text(self.environment, template, **values)


@lru_cache(CACHED_TEXTS)
def _text(environment: Environment, template: str, **values: object) -> Text:
    return Text(environment.get_template(template).render(values))


def examples_root() -> Path:
    """Return the folder of the example policies, in the wheel or in the checkout."""
    return shipped("examples")


@cache
def environment() -> Environment:
    """Return the environment that renders Lua."""
    env = Environment(
        loader=FileSystemLoader(lua_root() / "guard"),
        extensions=[LuaTemplates],
        line_statement_prefix="--%",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=lua_literal,
        auto_reload=False,  # the sources do not change under a process
        cache_size=-1,  # all
        autoescape=False,  # noqa: S701 - the output is Lua; finalize quotes every value
    )
    env.context_class = IncludeContext
    env.filters.update(expand=expand, suffix=suffix, of_account=of_account, offset=offset)
    # The units of work.
    env.globals.update(
        {name.lower(): unit for name, unit in vars(work).items() if isinstance(unit, int | float)}
    )
    # The letters of plans, by which Lua reads what Python knows about a command.
    env.globals.update({kind.__name__: kind for kind in LETTERS})
    env.globals.update(
        grouped=grouped,
        text=str,
        name=Text,
        option_pattern=option_pattern,
        used_with=_used_with,
        least_pace=_least_pace,
        part_of_pace=_part_of_pace,
        met=met,
        named=False,
        holds=holds,
        binding=False,
        starts=False,
        whole=False,
        any_grant=False,
        counts_caps=True,
        records_of=records_of,
        runs_of=runs_of,
        rule_digits=RULE_DIGITS,
        paths=PATHS,
        refused_words=f" {' '.join(REFUSED_OPTIONS)} ",
        functions=FUNCTIONS,
        text_functions=TEXT_FUNCTIONS,
        vector_options=VECTOR_OPTIONS,
        long_place=LONG_PLACE,
        sketches="".join(f" {name}={forms}" for name, forms in work.SKETCHES.items()),
        # Bounds on numbers in keys that an agent may write.
        latest_us=MOST,
        record_bytes=RECORD_BYTES,
        max_reason_bytes=MAX_REASON_BYTES,
        max_ring_slots=MAX_RING_SLOTS,
        max_threshold=MAX_THRESHOLD,
        max_interval_us=MAX_EMISSION_US,
        budget_periods_us=tuple(PERIOD_US.values()),
        most_record_bytes=RECORD_BYTES + MOST_TAIL_BYTES,
        cap_format=CAP_FORMAT,
        cap_bytes=CAP_BYTES,
        cap_used_at=CAP_USED_OFFSET - 1,
        tail_at=RECORD_BYTES + TAIL_HEADER_BYTES + 1,
        all_classes=2 ** len(OperationClass) - 1,
        bound_flag=FLAG_BOUND,
        child_flag=FLAG_CHILD,
        rotated_flag=FLAG_ROTATED,
        chain_bytes=CHAIN_BYTES,
        id_chars=ID_CHARS,
        asking_id=ASKING_ID,
        max_caps=len(CAP_COUNTERS),
        max_depth=MAX_DEPTH,
    )
    return env


def _used_with(limit: LimitPlan, taken: object) -> Text:
    """Return what a budget has used, with all but one of the bytes that a call takes."""
    return Text(f"used_N + {taken} - 1" if limit.counter.is_bytes else "used_N")


def _least_pace(limit: LimitPlan) -> int:
    """Return the shortest interval of a rate; that of a byte may be less than 1 µs."""
    return 0 if limit.counter.is_bytes else MIN_EMISSION_US


def _part_of_pace(limit: LimitPlan) -> Text:
    """Return the part of an interval that must be 0."""
    return Text("pace_us * 0" if limit.counter.is_bytes else "pace_us % 1")


def render(template: str, **context: object) -> str:
    """Return one script, in ASCII."""
    text = environment().get_template(template).render(**context)
    # A list of branches or alternatives begins with one that is never taken, so that a template is
    # legal Lua even if the list is empty. Removed here, because the server would test it.
    return text.replace("\nif false then\nelseif ", "\nif ").replace("if false\nor ", "if ")
