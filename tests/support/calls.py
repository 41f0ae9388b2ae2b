"""From a command and its keys to a call that has just these."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.commands import CommandSpec, keys_of
from keyleash.commands.spec import KeyRange, NumberedKeys, OptionKey, StreamKeys
from keyleash.policy.diff.call_shapes import Form

FILLER = b"1"
_WORDS_BEFORE_STREAMS = {"XREADGROUP": [b"GROUP", b"g", b"c"]}


def call_of(spec: CommandSpec, form: Form, keys: Sequence[bytes]) -> list[bytes]:
    """A call of *form* with a key for each kind; it need not be one that makes sense."""
    argv = [*spec.name.encode().split(b" ")]
    for search, key in zip(spec.keys, keys, strict=False):
        match search:
            case KeyRange(first=first, last=last):
                argv = [*_filled(argv, first), *[key] * (max(last, first) - first + 1)]
            case NumberedKeys(count_at=count_at, first=first):
                argv = [*_filled([*_filled(argv, count_at), b"1"], first), key]
            case StreamKeys():
                argv += [*_WORDS_BEFORE_STREAMS.get(spec.name, []), b"STREAMS", key, b"0"]
            case OptionKey(words=words, start=start):
                argv = [*_filled(argv, start), words[0].encode(), key]
    argv = _filled(argv, abs(spec.arity))
    if spec.variant is not None and form.needs[0] == spec.variant.needs:
        argv += [b"GET"] if spec.name == "SET" else [b"GET", b"u8", b"0"]
    elif spec.name == "BITFIELD":
        argv += [b"SET", b"u8", b"0", b"1"]
    for search, key in zip(spec.keys, keys, strict=False):
        if isinstance(search, KeyRange) and search.last < 0:
            for place in range(search.first, len(argv) + search.last + 1, search.step):
                argv[place] = key
    uses = {(use.key, use.needs) for use in keys_of(spec, argv)}
    assert uses == {*zip(keys, form.needs, strict=True)}, argv
    return argv


def _filled(argv: list[bytes], length: int) -> list[bytes]:
    return [*argv, *[FILLER] * (length - len(argv))]
