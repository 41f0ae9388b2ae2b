"""Write what was learned as a policy with its support as comments, and as tests of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby, islice
from typing import Any

from keyleash.addons.learn.backtest import placed_call
from keyleash.addons.learn.calls import Coverage
from keyleash.addons.learn.needs import LearnedIdentity, LearnedLimit, LearnedRule
from keyleash.commands import load_table
from keyleash.errors import KeyleashError
from keyleash.evaluate.client_calls import client_call, decide_client_call
from keyleash.evaluate.state import ModelState
from keyleash.limits import Counter
from keyleash.limits.rate import MAX_RING_SLOTS
from keyleash.policy import Identity, Policy, parse_policy
from keyleash.policy.bundles import BUNDLES, bundle_of, bundle_texts
from keyleash.policy.lua import LuaError
from keyleash.policy.parse import ACTIVE
from keyleash.policy.problems import Problems
from keyleash.policy.scripts import MARK, OF_LOCKS, approved
from keyleash.policy.yaml import YamlNode, read_document
from keyleash.text import StoredDocument, counted, distance, printable, span, without_tokens

PERIODS = {"rate": "minute", "budget": "day"}
OBSERVED_MS = {"rate": 5 * 60_000, "budget": 24 * 3_600_000}
"""A limit of a kind is proposed if calls were observed for so long."""
MOST_LEFT_OUT = 50
MOST_TEXTS = 20
"""Texts of scripts of an identity; more are built at run time."""
SCRIPT_KEYS = "runs scripts, whose KEYS are recorded only if their commands used them"
FOREIGN = b"keyleash-learn:no-such-key"
_DIGEST = re.compile("[0-9a-f]{40}")
_LIMIT = re.compile(r"([0-9]+)/([a-z]+)")


class PolicyWriter:
    """Writes a policy of what identities need.

    Args:
        identities: Those with enough calls.
        scripts: Texts of scripts, by what `LearnedIdentity.scripts` has.
        least: The calls that a rule has at least.
        active: The document of the active policy, of which other fields remain; or empty.
        is_capture: Whether the source is a capture, not an audit log.

    Attributes:
        files: The texts of its scripts by name of their files, beside the policy.
    """

    def __init__(
        self,
        identities: Sequence[LearnedIdentity],
        scripts: Mapping[str, str],
        least: int,
        active: str,
        *,
        is_capture: bool,
    ) -> None:
        self.files: dict[str, str] = {}
        self._identities, self._texts, self._least = identities, scripts, least
        self._is_capture = is_capture
        document = _plain(read_document(active or "{}", ACTIVE, Problems()))
        self._defaults = document.get("defaults")
        self._active: Mapping[str, Any] = document.get("identities", {})

    def document(self, head: Iterable[str]) -> str:
        """Return the policy, with *head* as comments."""
        bodies = [line for item in self._identities for line in self._identity(item)]
        lines = [*(f"# {printable(without_tokens(line))}" for line in head), "version: 1"]
        if self._defaults:
            lines.append(f"defaults: {json.dumps(self._defaults)}")
        if self.files:
            lines.append("scripts:")
            lines += (f"  {file[:-4]}: {{file: {file}}}" for file in self.files)
        return "\n".join([*lines, "identities:", *bodies, ""])

    def model(self, document: str) -> Policy:
        """Return the parsed policy, without its files."""
        stored = StoredDocument(
            "\n".join([document, *(MARK + json.dumps(item) for item in self.files.items())])
        )
        return parse_policy(stored, file="learned.yaml", commands=None)

    def _identity(self, identity: LearnedIdentity) -> Iterator[str]:
        active = self._active.get(identity.name, {})
        coverage = identity.coverage
        yield f"  {identity.name}:"
        yield f"    kind: {active.get('kind', 'machine')}"
        yield "    grants:"
        scripts = [*self._scripts(identity)]
        about_keys = "" if self._is_capture else f"  # {SCRIPT_KEYS}: add those"
        for rules in _grants(identity.rules):
            yield from _grant_lines(rules, coverage.until_ms or 0, scripts, about_keys)
            if not rules[0].is_rare and rules[0].kind == "keys":
                scripts = []
        for name, comment in scripts:
            yield f"    # no grant of keys runs {printable(name or comment)}"
        for what, calls in islice(identity.left_out.items(), MOST_LEFT_OUT):
            yield f"    # {counted(calls, 'call')}: {printable(what)}"
        if len(identity.left_out) > MOST_LEFT_OUT:
            yield f"    # and {len(identity.left_out) - MOST_LEFT_OUT} more that no rule allows"
        # Findings are accepted for a policy that a person has read.
        left_out = ("kind", "grants", "accept")
        kept = {name: value for name, value in active.items() if name not in left_out}
        # Without reads, requests are more than those that were counted.
        limits = [
            item
            for item in identity.limits
            if coverage.reads_since_ms or item.counter is not Counter.REQUESTS
        ]
        for kind, period in PERIODS.items():
            yield from _limits(kind, period, limits, kept.pop(kind, {}), coverage)
        if not active:
            kept["audit"] = {"reads": True}
            token = {"bound": identity.depth > 0, "renew": identity.renews}
            kept["token"] = {name: True for name, wanted in token.items() if wanted}
            kept["delegate"] = {"depth": identity.depth} if identity.depth else {}
        yield from (f"    {name}: {json.dumps(value)}" for name, value in kept.items() if value)

    def _scripts(self, identity: LearnedIdentity) -> Iterator[tuple[str, str]]:
        """Yield what a grant names for the scripts of an identity, and comments on others."""
        texts = {script for script in identity.scripts if _DIGEST.fullmatch(script)}
        if len(texts) > MOST_TEXTS:
            yield "", f"{len(texts)} scripts: their text is built at run time; use arguments"
        for script, calls in identity.scripts.items():
            if len(texts) > MOST_TEXTS and script in texts and not bundle_of(script):
                continue
            text = self._texts.get(script)
            bundle = script if script in BUNDLES else bundle_of(script)
            why = "its text is not known; see `keyleash scripts approve`"
            try:
                if bundle or script == OF_LOCKS:
                    _ = [*bundle_texts(bundle)] if bundle else []
                    yield bundle or script, ""
                    continue
            except KeyleashError as error:
                # Its library is not installed here.
                why = error.message
            if calls < self._least:
                why = f"fewer than {self._least} calls"
            elif text is not None and without_tokens(text) != text:
                why = "its text has a token: pass it as an argument"
            elif text is not None:
                name = f"script-{script[:8]}" if script in texts else script
                if self.files.get(f"{name}.lua", text) != text:
                    name = f"script-{script}"
                try:
                    approved(name, text, "")
                except LuaError as error:
                    why = f"it cannot be approved: {error}"
                else:
                    self.files[f"{name}.lua"] = text
                    yield name, ""
                    continue
            yield "", f"script {printable(script)}, {counted(calls, 'call')}: {why}"


def _plain(node: YamlNode) -> Any:
    if isinstance(node.value, dict):
        return {name: _plain(field) for name, field in node.fields.items()}
    is_list = isinstance(node.value, tuple)
    return [_plain(entry) for entry in node.entries] if is_list else node.value


def _grants(rules: Sequence[LearnedRule]) -> Iterator[list[LearnedRule]]:
    """Yield the rules that one grant has: first those that count."""

    def order(rule: LearnedRule) -> tuple[Any, ...]:
        return rule.is_rare, rule.kind != "keys", rule.kind, rule.only, rule.allow

    for _, group in groupby(sorted(rules, key=order), order):
        yield [*group]


def _grant_lines(
    rules: Sequence[LearnedRule], now_ms: int, scripts: Sequence[tuple[str, str]], about_keys: str
) -> Iterator[str]:
    first = rules[0]
    mark = "# " if first.is_rare else ""
    yield f"      {mark}- allow: [{', '.join(first.allow)}]"
    if first.only:
        yield f"      {mark}  only: [{first.only}]"
    yield f"      {mark}  {first.kind}:"
    for rule in rules:
        yield f"      {mark}    - {quoted(rule.pattern)}  # {support(rule, now_ms)}"
    if first.kind == "keys" and not first.is_rare:
        names = dict.fromkeys(name for name, _ in scripts if name)
        if names:
            yield f"        scripts: [{', '.join(names)}]{about_keys}"
        yield from (f"        # {printable(comment)}" for _, comment in scripts if comment)


def support(rule: LearnedRule, now_ms: int) -> str:
    """Return the calls that show the need of a rule, and its doubt, in words."""
    is_odd = len(rule.noun) < 3 or rule.noun.endswith("s")
    noun = "values" if is_odd else f"{rule.noun}s"
    values = f", {rule.values:,} {noun}" if rule.values else ""
    calls = f"{rule.calls:,} call{'s' * (rule.calls != 1)}"
    last = distance(min(rule.last_ms, now_ms - 1), now_ms)
    return f"{calls}{values}, last {last}{rule.doubt and f'; {rule.doubt}'}"


def _limits(
    kind: str,
    period: str,
    limits: Sequence[LearnedLimit],
    active: Mapping[str, Any],
    coverage: Coverage,
) -> Iterator[str]:
    """Yield the limits of a kind, none above that of the active policy.

    What was observed for less than enough is a comment.
    """
    rest = dict(active)
    lines: list[str] = []
    since_ms, until_ms = coverage.since_ms or 0, coverage.until_ms or 0
    is_short = until_ms - since_ms < OBSERVED_MS[kind]
    observed = f"observed for {span((until_ms - since_ms) // 1000)}"
    for item in limits:
        if item.kind != kind:
            continue
        written, why = None if is_short else rest.pop(item.counter, None), ""
        plain = _LIMIT.fullmatch(str(written))
        is_lower = plain is None or plain[2] != period or int(plain[1]) <= item.limit
        value = f"{item.limit}/{period}"
        if written is not None and is_lower:
            value, why = json.dumps(written), "of the active policy; "
        elif kind == "rate" and item.limit > MAX_RING_SLOTS:
            value = f"{{limit: {value}, burst: {item.limit}}}"
        usual = "p99 of a minute" if kind == "rate" else "the greatest day"
        most = f", the greatest {item.most:,}" if kind == "rate" else ""
        mark, shown = "# " * is_short, f"{usual} had {item.usual:,}{most}; {observed}"
        lines.append(f"      {mark}{item.counter}: {value}  # {why}{shown}")
    for name, value in rest.items():
        lines.append(f"      {name}: {json.dumps(value)}  # of the active policy")
    if lines:
        yield f"    {'' if rest or not is_short else '# '}{kind}:"
        yield from lines


def quoted(text: str) -> str:
    """Return a text as YAML, on one line."""
    shown = (
        letter if letter.isprintable() and letter not in '"\\' else f"\\U{ord(letter):08x}"
        for letter in text
    )
    return f'"{"".join(shown)}"'


def test_document(learned: Sequence[LearnedIdentity], policy: Policy, file: str) -> str:
    """Return tests of a learned policy: calls that were seen, and some that are denied.

    Arguments that are not keys are replaced: they may be secrets.
    """
    lines = [
        "# Written by `keyleash learn`: what was seen, with 1 for arguments that are not keys.",
        f"policy: {quoted(file)}",
        "cases:",
    ]
    for item in learned:
        identity = policy.identity(item.name)
        assert identity is not None  # noqa: S101 - the policy was written for it
        calls = {
            rule.pattern: [placed_call(*command) for command in rule.commands.items()]
            for rule in item.rules
            if not rule.is_rare
        }
        denied = [(b"GET", FOREIGN), (b"FLUSHALL",)]
        for name, several in [*calls.items(), ("elsewhere", denied)]:
            is_seen = name in calls
            steps = [s for x in several if x for s in _step(identity, x, allowed=is_seen)]
            if steps:
                title = f"{item.name}{' on' * is_seen} {name}"
                lines += [
                    f"  - name: {quoted(title)}",
                    f"    identity: {quoted(item.name)}",
                    "    steps:",
                ]
                lines += steps
    return "\n".join([*lines, ""])


def _step(identity: Identity, argv: Sequence[bytes], *, allowed: bool) -> Iterator[str]:
    """Yield the step of a call, if it is decided so and can be written."""
    call = client_call(identity, argv)
    decision = decide_client_call(identity, load_table(), call, ModelState(), 0)
    with suppress(UnicodeDecodeError):
        texts = [word.decode() for word in argv]
        words = ", ".join(map(quoted, texts))
        if decision.allowed == allowed and all(without_tokens(text) == text for text in texts):
            yield f"      - {{command: [{words}], expect: {decision.code or 'allow'}}}"
