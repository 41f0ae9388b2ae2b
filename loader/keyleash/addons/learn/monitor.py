"""Captures of MONITOR: read one, and make one."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

from keyleash.addons.export.rows import bounded_lines, open_regular
from keyleash.addons.learn.calls import COUNTERS, EVERY, CallLog, RecordedCall
from keyleash.addons.learn.patterns import split
from keyleash.commands import keys_of, known_table
from keyleash.commands.facts import ABOUT_THE_CONNECTION, SCRIPT_CALLS
from keyleash.commands.locks import LOCK_SCRIPTS
from keyleash.commands.spec import Needs
from keyleash.errors import OperationError, UnplacedKeysError
from keyleash.evaluate.access import glob_of, named
from keyleash.evaluate.client_calls import client_call
from keyleash.limits import Counter
from keyleash.policy import Identity
from keyleash.policy.model import IdentityKind
from keyleash.policy.problems import listing
from keyleash.results import Progress
from keyleash.store.keyspace import CONTROL_PREFIX
from keyleash.store.server import client_names, monitored
from keyleash.store.server_check import Client
from keyleash.text import printable, without_tokens

Argv = tuple[bytes, ...]

_WORD = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_LINE = re.compile(rb"\+?(\d{1,10})\.(\d{6}) \[(\d+) ([^\r\n]*?)\]((?: " + _WORD + rb")+)\r?\n?")
_WORDS = re.compile(_WORD)
_CLIENT = re.compile(r"# client (\S+) (\S+)\s*")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
_ANYBODY = Identity("any", IdentityKind.MACHINE, ())
_LUA = "lua"
MAX_LINE_BYTES = 16 << 20
_OF_KEYLEASH = "a call of keyleash: learn from its audit log"


def identity_name(text: str) -> str:
    """Return a text as the name of an identity."""
    return re.sub("[^a-z0-9]+", "-", without_tokens(text).lower()).strip("-")[:64] or "unnamed"


class MonitorLog(CallLog):
    """A capture: its identities are names of clients, or addresses without their ports."""

    is_capture = True

    def __init__(self, path: Path, identities: Sequence[str], progress: Progress | None) -> None:
        super().__init__(f"`{path}`", progress)
        self._path, self._wanted = path, frozenset(identities)
        self._names: dict[str, str] = {}
        self._first: dict[str, bytes] = {}
        self._databases: dict[str, bytes] = {}
        self._batches: dict[str, int] = {}
        self._notes: dict[str, set[str]] = defaultdict(set)
        try:
            open_regular(path).close()
        except OSError as error:
            reason = (error.strerror or "failed").lower()
            raise OperationError("file", f"cannot read `{path}`: {reason}") from None

    def _calls(self) -> Iterator[RecordedCall]:
        caller = script = ""
        is_guard = False
        for number, line in enumerate(bounded_lines(self._path, most=MAX_LINE_BYTES), 1):
            parsed = _LINE.fullmatch(line)
            if parsed is None:
                self._note(number, line.decode("utf-8", "replace"))
                continue
            time_ms = int(parsed[1]) * 1000 + int(parsed[2]) // 1000
            first, *rest = map(_unquoted, _WORDS.findall(parsed[5]))
            argv = (first.upper(), *rest)
            address = parsed[4].decode("utf-8", "replace")
            if address != _LUA:
                caller, script = address, self._script(argv)
                self._name(address, argv)
                is_guard = _is_of_keyleash(argv)
                self._note_batch(address, argv[0], number)
                if is_guard:
                    self.not_understood.add(f"line {number}", _OF_KEYLEASH)
            if is_guard or _is_of_keyleash(argv):
                continue
            if address == _LUA and script in LOCK_SCRIPTS:
                # A guarded connection runs these scripts as commands.
                continue
            identity = self._names.get(caller) or identity_name(
                f"client {(caller.rpartition(':')[0] or caller).replace('::', ':0:')}"
            )
            database = self._databases.setdefault(identity, parsed[3])
            if self._wanted and identity not in self._wanted:
                continue
            is_inner = address == _LUA
            event = str(self._batches.get(caller, number))
            facts = {"time_ms": time_ms, "token_id": caller, "event": event}
            try:
                for words in self._guarded(argv, script, is_inner=is_inner):
                    call = _captured(identity, words, script, is_inner=is_inner, **facts)
                    if parsed[3] != database:
                        self._notes[identity].add("it uses several databases")
                    yield call
            except UnplacedKeysError:
                # Its message has words of the client.
                name = printable(argv[0].decode("utf-8", "replace"))
                self.not_understood.add(f"line {number}", f"the keys of {name} are not known")
        for name in sorted(self._wanted - self._databases.keys()):
            raise OperationError(
                "unknown-identity",
                f"{self.name} has no calls of `{printable(name)}`",
                help=f"it has {listing(sorted(self._databases)) or 'no calls'}",
            )
        for identity in self._notes.keys() & self.coverage.keys():
            self.coverage[identity].holes += sorted(self._notes[identity])

    def _note(self, number: int, line: str) -> None:
        """Note a line that is no call."""
        client = _CLIENT.fullmatch(line)
        if client is not None:
            self._note_name(client[1], client[2].encode())
        elif line.strip() not in ("", "OK", "+OK"):
            self.not_understood.add(f"line {number}", "not a complete line of MONITOR")

    def _note_batch(self, address: str, command: bytes, number: int) -> None:
        """Note where the batch of a client begins, or that it is over."""
        if command == b"MULTI":
            self._batches[address] = number
        elif command in (b"EXEC", b"DISCARD", b"RESET"):
            self._batches.pop(address, None)

    def _script(self, argv: Argv) -> str:
        """Return the SHA-1 of the script that a call runs; empty if it runs none."""
        if argv[0] == b"SCRIPT" and len(argv) == 3 and argv[1].upper() == b"LOAD":
            self._text(argv[2])
        if argv[0].decode("latin-1") not in SCRIPT_CALLS or len(argv) < 3:
            return ""
        is_digest = argv[0].startswith(b"EVALSHA")
        return argv[1].decode("latin-1").lower() if is_digest else self._text(argv[1])

    def _text(self, text: bytes) -> str:
        digest = sha1(text, usedforsecurity=False).hexdigest()
        self.scripts[digest] = text.decode("latin-1")
        return digest

    def _name(self, address: str, argv: Argv) -> None:
        """Note the name that a client gives itself."""
        is_named = argv[0] in (b"CLIENT", b"HELLO")
        words = [word.upper() for word in argv[:-1]] if is_named else []
        if b"SETNAME" in words:
            self._note_name(address, argv[words.index(b"SETNAME") + 1])

    def _note_name(self, address: str, name: bytes) -> None:
        # A name that is random, such as that of a worker of RQ, is no identity.
        if not name:
            self._names.pop(address, None)
        elif any(split(name)[::2]):
            identity = self._names[address] = identity_name(name.decode("utf-8", "replace"))
            if name != self._first.setdefault(identity, name):
                self._notes[identity].add("it stands for several names of clients")

    def _guarded(self, argv: Argv, script: str, *, is_inner: bool) -> Iterator[Argv]:
        """Yield the calls that a guarded connection makes of a command."""
        if argv[0] == b"SCRIPT":
            # It is answered for each script that is approved.
            return
        if is_inner or (script and script not in LOCK_SCRIPTS):
            yield argv
            return
        for call in client_call(_ANYBODY, argv).calls:
            words = tuple(map(bytes, call))
            spec = named(known_table(), words)
            if spec is None or spec.refused != ABOUT_THE_CONNECTION:
                yield words


def _is_of_keyleash(argv: Argv) -> bool:
    """Return whether a call has a control key, or runs a guard: that takes a token."""
    if argv[0].decode("latin-1") in SCRIPT_CALLS:
        texts = (word.decode("latin-1") for word in argv[3:])
        return any(without_tokens(text) != text for text in texts)
    return argv[1:] != () and argv[1].startswith(CONTROL_PREFIX.encode())


def capture(client: Client, file: str | Path, seconds: float, progress: Progress) -> int:
    """Write what MONITOR shows to a new file, and return the number of lines.

    Raises:
        FileExistsError: the file exists.
    """
    count = 0
    # Only its owner may read the values of all clients.
    with open(file, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
        for address, name in client_names(client):
            output.write(f"# client {address} {name}\n".encode())
        for line, past_s in monitored(client, seconds):
            if line is not None:
                output.write(line + b"\n")
                count += 1
            if not count % EVERY:
                progress(round(past_s), round(seconds))
    return count


def _captured(
    identity: str, argv: Argv, script: str, *, is_inner: bool, **facts: Any
) -> RecordedCall:
    """Return a call of a capture with what follows from its words.

    Raises:
        UnplacedKeysError: its keys cannot be determined.
    """
    spec, keys, is_variant = named(known_table(), argv), argv[:0], False
    name = argv[0].decode("latin-1") if spec is None else spec.name
    needs: Needs = ()
    script = "" if script in LOCK_SCRIPTS else script
    if script and not is_inner:
        name, keys = "EVALSHA", argv[3 : 3 + int(argv[2][:9])] if argv[2].isdigit() else ()
    elif spec is not None and spec.refused is None:
        needs = spec.needs
        if spec.channel is not None:
            keys = argv[spec.channel : None if spec.counts else spec.channel + 1]
        elif spec.scans or spec.index is not None:
            keys = (glob_of(argv),) if spec.scans else argv[1:2]
        else:
            uses = keys_of(spec, argv)
            keys = tuple(use.key for use in uses)
            needs = tuple({cls for use in uses for cls in use.needs})
            is_variant = bool(uses and spec.variant and uses[0].needs == spec.variant.needs)
    cost = {COUNTERS[cls]: 1 for cls in needs if cls in COUNTERS}
    if not is_inner:
        # The commands of a script add what they take when they follow.
        cost[Counter.REQUESTS] = 1
    facts |= {"argv": argv, "cost": cost, "is_variant": is_variant, "script": script}
    return RecordedCall(identity=identity, command=name, keys=keys, **facts)


def _unquoted(word: bytes) -> bytes:
    inner = word[1:-1]
    return _ESCAPE.sub(_unescaped, inner) if b"\\" in inner else inner


def _unescaped(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 16)]) if escape[1] else _ESCAPES.get(escape[2], escape[2])
