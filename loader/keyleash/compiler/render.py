"""Render Lua templates: the environment, cached includes, and placeholders of matchers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from keyleash.compiler.ir import Check, Matcher, Requirement, Rule, ScanPlan
from keyleash.compiler.match_tree import grouped
from keyleash.compiler.quoting import (
    RULE_DIGITS,
    Text,
    expand,
    lua_literal,
    met,
    offset,
    option_pattern,
    records_of,
    runs_of,
    suffix,
)
from keyleash.limits.calendar import PERIOD_US
from keyleash.limits.counters import COUNTER_KEEP_MS, MOST
from keyleash.limits.rate import MAX_EMISSION_US, MAX_RING_SLOTS, MIN_EMISSION_US
from keyleash.policy.quantities import MAX_SIZE_BYTES
from keyleash.policy.sections import MAX_THRESHOLD
from keyleash.store.keyspace import OPERATORS, PUBLIC_PREFIX, Keyspace
from keyleash.store.state import MAX_REASON_BYTES
from keyleash.store.token import (
    KEEP_AFTER_EXPIRY_MS,
    RECORD_BYTES,
    REVOKED_OFFSET,
    USE_NOTED_IDLE_US,
    USE_NOTED_US,
)

# How Lua sources become templates: read without what a server need not keep, and in parts.
#
# A part is a partial that many guards have in common. It is put in by
#
#     --% cached_include "authorize/find_rule.lua" with dispatch, rare, containers
#
# and is a template of its own, which sees the values that are named there and no others. So
# its text is a function of these, and is written once for all guards where they are equal;
# a value that it needs and that was forgotten there is an error, and never another guard's text.

KEPT = 1024
"""So many texts of parts are remembered: what hundreds of quite different identities have."""


class Sharing(Extension):
    """The statement `cached_include`, and the stripping of sources."""

    tags = {"cached_include"}  # noqa: RUF012 - jinja2's own word

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Leave comments, blank lines and indentation out.

        The server keeps every byte of a script. Stripping is safe because no literal spans lines.
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


@lru_cache(KEPT)
def _text(environment: Environment, template: str, **values: object) -> Text:
    return Text(environment.get_template(template).render(values))


REMOVED_KEEP_MS = 32 * 86_400_000
"""How long an identity that left the policy keeps its state: longer than any budget lasts."""

KEPT_POLICIES = 20
"""How many policies are kept, each once, to go back to."""

STAGED_KEEP_MS = 10 * 60_000
"""How long what a load staged outlives it if it dies: longer than any load takes."""

OPERATORS_RETAIN = 100_000
"""How many entries the trail of undos keeps."""

UNDO_MAX_BYTES = 64 * 1024 * 1024
"""Most bytes that an undo moves: the server serves nobody meanwhile."""

UNDO_KEYS_PER_EVENT = 1000
"""An undo of more keys is several events: a script passes a command no more than 7,999 words."""

SHORT_ELEMENTS, SHORT_BYTES = 4, 48
"""How much is read of a value that is shown on one line."""


def lua_root() -> Path:
    """The folder of the Lua sources: in the wheel beside the package, else in the checkout."""
    return _shipped("lua")


def examples_root() -> Path:
    """The folder of the example policies, found likewise."""
    return _shipped("examples")


def _shipped(folder: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    inside = package / folder
    return inside if inside.is_dir() else package.parents[1] / folder


@cache
def environment() -> Environment:
    """The one environment that renders Lua."""
    made = Environment(
        loader=FileSystemLoader([lua_root() / "guard", lua_root()]),
        extensions=[Sharing],
        line_statement_prefix="--%",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
        finalize=lua_literal,
        auto_reload=False,  # the sources do not change under a process
        autoescape=False,  # noqa: S701 - the output is Lua; finalize quotes every value
    )
    made.filters.update(expand=expand, suffix=suffix, offset=offset)
    made.globals.update(grouped=grouped, text=str, name=Text, option_pattern=option_pattern)
    made.globals.update(met=met, named=False, records_of=records_of, runs_of=runs_of)
    made.globals.update(rule_digits=RULE_DIGITS)
    # The bounds of what a guard may find in keys that its agent may write.
    made.globals.update(
        latest_us=MOST,
        record_bytes=RECORD_BYTES,
        max_reason_bytes=MAX_REASON_BYTES,
        max_ring_slots=MAX_RING_SLOTS,
        max_threshold=MAX_THRESHOLD,
        min_interval_us=MIN_EMISSION_US,
        max_interval_us=MAX_EMISSION_US,
        budget_periods_us=tuple(PERIOD_US.values()),
        counter_keep_ms=COUNTER_KEEP_MS,
    )
    return made


def render(template: str, **context: object) -> str:
    """Render one script, in ASCII."""
    text = environment().get_template(template).render(**context)
    # A list of branches, or of alternatives, is written with a first one that is never taken, so
    # that a template is legal Lua whatever the list holds. The server would test it every time.
    return text.replace("\nif false then\nelseif ", "\nif ").replace("if false\nor ", "if ")


def operator_script(template: str, keyspace: Keyspace, old: Keyspace | None = None) -> str:
    """Render a script that operators run: it knows all control names and no identity.

    Args:
        old: Where the keys are that the script takes to *keyspace*, if it does.
    """
    return render(
        f"operator/{template}",
        names=_names(keyspace),
        old_names=_names(old or keyspace),
        public_prefix=PUBLIC_PREFIX,
        vault=keyspace.vault,
        removed_keep_ms=str(REMOVED_KEEP_MS),
        kept_policies=KEPT_POLICIES,
        staged_keep_ms=str(STAGED_KEEP_MS),
        revoked_offset=REVOKED_OFFSET,
        keep_record_ms=KEEP_AFTER_EXPIRY_MS,
        use_noted_us=USE_NOTED_US,
        use_noted_idle_us=USE_NOTED_IDLE_US,
        operators_retain=OPERATORS_RETAIN,
        image_max_bytes=MAX_SIZE_BYTES,
        undo_keys_per_event=UNDO_KEYS_PER_EVENT,
        short_elements=SHORT_ELEMENTS,
        short_bytes=SHORT_BYTES,
    )


def emergency_script(template: str, keyspace: Keyspace) -> str:
    """
    Render an operators' script that must also run on a server whose memory is full.

    What filled it may be the very agent that is to be stopped. The few bytes that such a
    script writes are the only ones for which `maxmemory` is passed over.
    """
    return "#!lua flags=allow-oom\n" + operator_script(template, keyspace)


def _names(keyspace: Keyspace) -> dict[str, str]:
    return {
        "prefix": keyspace.prefix,
        "sealed": keyspace.sealed,
        "policy": keyspace.policy,
        "history": keyspace.history,
        "kept_prefix": keyspace.kept_root,
        "layouts": keyspace.layouts,
        "control": keyspace.control,
        "state_prefix": keyspace.state_root,
        "guard_prefix": keyspace.guard_root,
        "denied_prefix": keyspace.denied(""),
        "repeats_prefix": keyspace.repeats(""),
        "refused_prefix": keyspace.refused(""),
        "suspension_prefix": keyspace.suspension(""),
        "tokens_prefix": keyspace.tokens(""),
        "token_prefix": keyspace.token_root,
        "staged_prefix": keyspace.staged_prefix,
        "operators": keyspace.audit(OPERATORS),
        "operators_seq": keyspace.operators_seq,
        "undo_prefix": keyspace.undo_prefix,
    }


class StandIns:
    """The stand-ins of one guard's matchers: equal for equal ones, and numbered in order."""

    def __init__(self) -> None:
        self._of: dict[Matcher, Matcher] = {}
        self._real: dict[Matcher, Matcher] = {}

    def of(self, matchers: Iterable[Matcher]) -> tuple[Matcher, ...]:
        """What stands for *matchers*."""
        return tuple(map(self._stand_in, matchers))

    def _stand_in(self, real: Matcher) -> Matcher:
        stand_in = self._of.setdefault(real, Matcher(text=b"%d" % len(self._of)))
        self._real.setdefault(stand_in, real)
        return stand_in

    def real(self, stand_ins: Iterable[Matcher]) -> tuple[Matcher, ...]:
        """The matchers for which *stand_ins* stand."""
        return tuple(self._real[item] for item in stand_ins)

    def real_check(self, check: Check) -> Check:
        """The check on real matchers."""
        requirements = (
            Requirement(
                requirement.missing, self.real(requirement.matchers), self.real(requirement.others)
            )
            for requirement in check.requirements
        )
        return replace(check, requirements=tuple(requirements))

    def real_rule(self, rule: Rule) -> Rule:
        """The rule with real channels and globs; most have none, and are shared as they are."""
        if not rule.channels and rule.scan is None:
            return rule
        scan = rule.scan and ScanPlan(self.real(rule.scan.wholes), self.real(rule.scan.beginnings))
        return replace(rule, channels=self.real(rule.channels), scan=scan)
