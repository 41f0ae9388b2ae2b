"""Approved scripts of a policy: read from files, and stored with the document."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from keyleash.commands.locks import DENIED_MS, EXTEND, REACQUIRE, RELEASE
from keyleash.errors import OperationError, Span
from keyleash.policy.bundles import BUNDLES, bundle_texts, sha1_of
from keyleash.policy.files import read_bytes
from keyleash.policy.lua import MAX_BYTES, LuaError, sandboxed
from keyleash.policy.model import Policy, Script
from keyleash.policy.problems import Problems, did_you_mean, listing, quote
from keyleash.policy.yaml import YamlNode
from keyleash.text import StoredDocument

MARK = "#script "
"""Begins a line of a stored document that has the text of a script, as JSON."""

OF_LOCKS = "redis-py-lock"
_LOCK_TEXTS = {
    RELEASE: (
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end"
        " local found = redis.pcall('DEL', KEYS[1])"
        # Without an expiry it would stay locked for ever.
        " if type(found) == 'table' then"
        f" redis.pcall('PEXPIRE', KEYS[1], {DENIED_MS}, 'NX') error(found) end"
        " return 1"
    ),
    EXTEND: (
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end"
        " local left = redis.call('PTTL', KEYS[1])"
        " if left < 0 then return 0 end"
        " redis.call('PEXPIRE', KEYS[1], ARGV[3] == '0' and ARGV[2] + left or ARGV[2]) return 1"
    ),
    REACQUIRE: (
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end"
        " redis.call('PEXPIRE', KEYS[1], ARGV[2]) return 1"
    ),
}

LOCKS = tuple(
    Script(OF_LOCKS, digest, sandboxed(text.encode())) for digest, text in _LOCK_TEXTS.items()
)
"""The scripts of redis-py's `Lock`: release, extend and reacquire."""


class ScriptReader:
    """Reads the approved scripts of a document.

    Args:
        node: `scripts` of the document, by name; None without it.
        text: The document, which has the texts itself if it is a `StoredDocument`.
        file: Its name; files of scripts are relative to its folder.
    """

    def __init__(self, node: YamlNode | None, text: str, file: str, problems: Problems) -> None:
        self._problems = problems
        # Of a document from standard input, the current folder.
        self._folder = Path(os.path.abspath(Path(file).parent))
        self._comments = [*script_comments(text)]
        self._stored = stored_texts(text) if isinstance(text, StoredDocument) else {}
        self._known: dict[str, tuple[Script, ...]] = {OF_LOCKS: LOCKS}
        self._unused: dict[str, Span] = {}
        for name, entry in (node.fields if node else {}).items():
            if name == OF_LOCKS or name in BUNDLES:
                problems.add(
                    "reserved-script",
                    f"{quote(name)} is the name of a bundle",
                    entry.span,
                    "give the script another name, or leave it out and name the bundle in a grant",
                )
                continue
            self._known[name] = tuple(self._read(name, entry))
            self._unused[name] = entry.label

    def warn_of_unused(self, warnings: Problems) -> None:
        """Warn of each script that no grant names, when all grants are read."""
        for name, span in self._unused.items():
            warnings.add(
                "unused-script",
                f"no grant names the script {quote(name)}",
                span,
                f"add `scripts: [{name}]` to a grant, or remove it",
            )

    def grant(self, node: YamlNode | None) -> tuple[Script, ...]:
        """Return the scripts that a grant names."""
        scripts: list[Script] = []
        for entry in node.entries if node else ():
            name = entry.source
            self._unused.pop(name, None)
            if name not in self._known and name in BUNDLES:
                self._known[name] = tuple(self._read_bundle(name, entry))
            if name in self._known:
                scripts += self._known[name]
                continue
            choices = sorted({*self._known, *BUNDLES})
            self._problems.add(
                "unknown-script",
                f"unknown script {quote(entry.source)}",
                entry.span,
                did_you_mean(entry.source, choices, f"the scripts are {listing(choices)}"),
            )
        return tuple(dict.fromkeys(scripts))

    def _read_bundle(self, name: str, entry: YamlNode) -> Iterable[Script]:
        stored = {
            file: text for file, text in self._stored.items() if file in BUNDLES[name].digests
        }
        try:
            for place, text in stored.items() or bundle_texts(name, self._folder):
                yield approved(name, text, place, entry.span)
        except OperationError as error:
            self._problems.add("script-bundle", error.message, entry.span, error.help or "")

    def _read(self, name: str, entry: YamlNode) -> Iterable[Script]:
        node = entry.get("file")
        if node is None:
            return
        try:
            source = self._text(node)
        except OperationError as error:
            help = "write a path relative to the folder of the policy, or an absolute path"
            if node.source.startswith("~"):
                help += "; `~` is not expanded"
            self._problems.add("script-file", error.message, node.span, help)
            return
        try:
            yield approved(name, source, node.source, node.span)
        except LuaError as error:
            self._problems.add(
                error.code,
                f"`{node.source}:{error.line}:{error.column}`: {error.message}",
                node.span,
                error.help,
            )

    def _text(self, node: YamlNode) -> str:
        file = node.source
        if file in self._stored:
            return self._stored[file]
        source = read_bytes(os.path.abspath(self._folder / file), MAX_BYTES).decode("latin-1")
        for line, named, text in self._comments:
            if named == file and text != source:
                self._problems.add(
                    "script-comment",
                    f"the text of {quote(file)} in this comment differs from the file",
                    Span(node.span.file, line, 1),
                    "remove the comment, which `keyleash policy show` prints, or restore the file",
                )
        return source


def approved(name: str, source: str, file: str, span: Span | None = None) -> Script:
    """Return an approved script.

    Args:
        source: Its text; each character is a byte.

    Raises:
        LuaError: The sandbox cannot run it.
    """
    data = source.encode("latin-1")
    return Script(name, sha1_of(data), sandboxed(data), source, file, span)


def stored_texts(document: str) -> Mapping[str, str]:
    """Return the texts that a stored document has, by file."""
    return {file: text for _, file, text in script_comments(document)}


def script_comments(document: str) -> Iterator[tuple[int, str, str]]:
    """Yield the comments that have texts of scripts: the line, the file and its text."""
    # `splitlines` would also end a line at other characters, which a comment may have.
    for number, line in enumerate(document.split("\n"), start=1):
        # Others are comments of the author.
        with suppress(ValueError):
            entry = json.loads(line.removeprefix(MARK)) if line.startswith(MARK) else None
            match entry:
                case [str(file), str(text)] if all(ord(letter) < 256 for letter in text):
                    yield number, file, text


def with_texts(document: str, policy: Policy) -> StoredDocument:
    """Return a document with the texts of its scripts, so that it can be read without the files."""
    scripts = (script for identity in policy.identities for script in identity.scripts)
    texts = {script.file: script.source for script in scripts if script.file}
    lines = [line for line in document.split("\n") if not line.startswith(MARK)]
    if not texts:
        return StoredDocument(document)
    if not lines[-1]:
        lines.pop()
    marked = (MARK + json.dumps(item) for item in texts.items())
    return StoredDocument("\n".join([*lines, *marked, ""]))
