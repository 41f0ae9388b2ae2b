"""Decide on the search index of a call; its documents are known to a server alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.facts import LISTS_INDEXES
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import (
    CONTROL,
    Argv,
    RuledCommand,
    grants_of_keys_from,
    matches,
    too_long,
)
from keyleash.evaluate.restricted import reaches_all, refused_by_token
from keyleash.evaluate.state import ModelState
from keyleash.evaluate.trace import ALLOWED, ArgumentStep, Aspect, Decision, Match, Trace, refused
from keyleash.policy import Grant, Identity, Pattern
from keyleash.policy.model import capture_in
from keyleash.policy.patterns import bound_pattern, keys_under, may_start_with


@dataclass(frozen=True, slots=True)
class IndexCall:
    """A call that may name a search index: the caller may read all keys with its prefixes."""

    identity: Identity
    command: RuledCommand
    spec: CommandSpec
    argv: Argv
    state: ModelState
    trace: Trace

    def checks(self) -> Iterator[Decision]:
        """Yield the verdict of each check; the caller stops at the first denial."""
        cls, limits = self.spec.index, self.state.restrictions
        if cls is None:
            return
        if limits is not None and cls not in limits.allow:
            yield refused_by_token(
                self.trace, ReplyCode.CLASS_NOT_GRANTED, class_=cls, command=self.command.name
            )
        if self.spec.name == LISTS_INDEXES or len(self.argv) < 2:
            return
        giving = [grant for grant in self.command.grants if cls in grant.allow]
        named = [
            Match(grant, item)
            for grant in giving
            for item in grant.indexes
            if matches(item, self.argv[1]) and (cls is OperationClass.READ or not item.where)
        ]
        yield self.index(named)
        yield from self.contents(giving, named)

    def contents(
        self, giving: Sequence[Grant], named: Sequence[Match[Grant]]
    ) -> Iterator[Decision]:
        """Yield the verdicts on what the call reads or creates, as far as its words say."""
        if self.spec.name == "FT.CREATE":
            for prefix in _created_prefixes(self.argv):
                yield self.prefix(prefix, is_filtered=False)
        elif self.spec.index is OperationClass.READ and b"" in (self.filter(named) or {}).values():
            verdict = refused(ReplyCode.INDEX_NOT_GRANTED, index=self.argv[1], reason="unbound")
            self.trace.append(ArgumentStep(Aspect.INDEX, self.argv[1], code=verdict.code))
            yield verdict

    def filter(self, named: Sequence[Match[Grant]]) -> Mapping[str, bytes] | None:
        """Return the fields and values that the policy forces on a search; None for no filter."""
        limits = self.state.restrictions
        bind = limits.bind if limits else {}
        own = [item.pattern for item in named if self.is_bound(item.pattern, self.argv[1])]
        if any(not pattern.where for pattern in own):
            return None
        return {
            field: bind.get(capture_in(value), b"") if capture_in(value) else value.encode()
            for pattern in own[:1]
            for field, value in pattern.where
        }

    def is_bound(self, pattern: Pattern, text: bytes) -> bool:
        """Return whether *text* matches a pattern with the values of the token's bindings."""
        limits = self.state.restrictions
        bound = pattern if limits is None else bound_pattern(pattern, limits.bind)
        return bound is not None and matches(bound, text)

    def index(self, named: Sequence[Match[Grant]]) -> Decision:
        name = self.argv[1]
        verdict = ALLOWED
        if len(name) > self.identity.key_bytes:
            verdict = too_long(self.identity, name)
        elif not named or b"\0" in name:
            verdict = refused(ReplyCode.INDEX_NOT_GRANTED, index=name)
        self.trace.append(ArgumentStep(Aspect.INDEX, name, tuple(named), code=verdict.code))
        if not verdict.allowed:
            return verdict
        if not any(self.is_bound(item.pattern, name) for item in named):
            return refused_by_token(self.trace, ReplyCode.INDEX_NOT_GRANTED, index=name)
        return ALLOWED

    def prefix(self, prefix: bytes, *, is_filtered: bool) -> Decision:
        admitting = [grant for grant in self.identity.grants if grant.admits(self.spec)]
        changes = self.spec.index not in (None, OperationClass.READ) and len(self.argv) > 2
        needed = (OperationClass.READ, *([self.spec.index] if changes else ()))
        limits, shown = self.state.restrictions, prefix + b"*"
        granted: tuple[Match[Grant], ...] = ()
        for cls in () if is_filtered else needed:
            granted = tuple(grants_of_keys_from(admitting, prefix, cls))
            if not granted:
                code = ReplyCode.KEY_NOT_GRANTED
                self.trace.append(ArgumentStep(Aspect.PREFIX, shown, code=code))
                return refused(code, key=shown)
            if not any(self.is_bound(item.pattern, prefix) for item in granted):
                return refused_by_token(self.trace, ReplyCode.KEY_NOT_GRANTED, key=shown)
        if limits is not None and not reaches_all(limits, prefix):
            return refused_by_token(self.trace, ReplyCode.KEY_NOT_GRANTED, key=shown)
        denied = (keys_under(CONTROL), *self.identity.denied_keys)
        is_denied = any(may_start_with(item, prefix) for item in denied)
        verdict = refused(ReplyCode.KEY_DENIED, key=shown) if is_denied else ALLOWED
        self.trace.append(ArgumentStep(Aspect.PREFIX, shown, granted, code=verdict.code))
        return verdict


def _created_prefixes(argv: Argv) -> Sequence[bytes]:
    """Return the prefixes in an FT.CREATE."""
    words = [word.upper() for word in argv]
    end = words.index(b"SCHEMA", 2) if b"SCHEMA" in words[2:] else len(words)
    if b"PREFIX" not in words[2:end]:
        return [b""]
    at = words.index(b"PREFIX", 2) + 1
    count = b"".join(argv[at : at + 1])
    return argv[at + 1 : at + 1 + int(count)] if count.isdigit() else [b""]
