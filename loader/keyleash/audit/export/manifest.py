"""
The manifest of a folder: which files it has, what is in each, and how they hang together.

`chain` of a file is the SHA-256, in hex, of the chain of the file before it and the SHA-256 of
its own content, both as 64 hex digits, one behind the other. Before the first file stand 64
zeros. So who knows one chain knows whether any file up to there was changed, removed or added.

A manifest is written anew with each file. So that this does not take longer and longer, one
that lists `FILES_PER_MANIFEST` files is closed under another name, and the next goes on from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keyleash.audit.export.files import recovery_of, write_json
from keyleash.errors import ArchiveError

MANIFEST = "manifest.json"
CLOSED_MANIFEST = re.compile(r"manifest-\d{8,}\.json")
VERSION = 1
FILES_PER_MANIFEST = 1000
NO_CHAIN = "0" * 64


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """
    A file of a folder.

    Attributes:
        first: Id of its first entry.
        last: Id of its last.
        count: How many entries it has.
        first_seq: The first sequence number in it; 0 if it has none.
        last_seq: The last, likewise.
        sha256: Of its content.
        chain: See above.
    """

    name: str
    first: str
    last: str
    count: int
    first_seq: int
    last_seq: int
    bytes: int
    sha256: str
    chain: str


@dataclass(frozen=True, slots=True)
class Head:
    """
    Where a manifest goes on from: how the one before it ended.

    Attributes:
        manifest: Its name; empty if there is none.
        files: How many files there are up to its end.
        count: How many entries.
        last: Id of the last entry; empty if there is none.
        last_seq: The last sequence number; 0 if there is none.
        chain: Of the last file.
    """

    manifest: str = ""
    files: int = 0
    count: int = 0
    last: str = ""
    last_seq: int = 0
    chain: str = NO_CHAIN


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    What a folder's newest manifest says.

    Attributes:
        trail: The folder's name in the archive.
        before: How the manifest before it ended.
        files: Those after that, in order.
    """

    trail: str
    before: Head = Head()
    files: tuple[ArchivedFile, ...] = ()

    @property
    def head(self) -> Head:
        """How it ends."""
        if not self.files:
            return self.before
        numbers = (file.last_seq for file in reversed(self.files) if file.last_seq)
        number = self.before.files + len(self.files)
        return Head(
            manifest=f"manifest-{number:08}.json",
            files=number,
            count=self.before.count + sum(file.count for file in self.files),
            last=self.files[-1].last,
            last_seq=next(numbers, self.before.last_seq),
            chain=self.files[-1].chain,
        )

    @property
    def is_full(self) -> bool:
        """Whether another one goes on from it."""
        return len(self.files) >= FILES_PER_MANIFEST


def next_chain(chain: str, sha256: str) -> str:
    """The chain of a file, from that of the file before it."""
    return hashlib.sha256((chain + sha256).encode()).hexdigest()


def add_file(folder: Path, manifest: Manifest, file: ArchivedFile) -> Manifest:
    """Write the manifest that lists *file* too, and return it."""
    before, files = manifest.before, manifest.files
    if manifest.is_full:
        before, files = manifest.head, ()
        write_json(folder / before.manifest, _as_json(manifest))
    longer = Manifest(manifest.trail, before, (*files, file))
    write_json(folder / MANIFEST, _as_json(longer))
    return longer


def read_manifest(folder: Path, trail: str, name: str = MANIFEST) -> Manifest:
    """Read a folder's manifest; an empty one if there is none yet.

    Raises:
        ArchiveError: it is none that can be read, or that of another trail.
    """
    path = folder / name
    try:
        said = json.loads(path.read_bytes())
        if said["version"] != VERSION:
            raise _unreadable(path, f"version {said['version']} is not known")
        if said["trail"] != trail:
            raise _unreadable(path, f"it is that of `{said['trail']}`")
        files = tuple(ArchivedFile(**file) for file in said["files"])
        return Manifest(trail, Head(**said["before"]), files)
    except FileNotFoundError:
        if name != MANIFEST:
            raise _unreadable(path, "it is missing") from None
        return Manifest(trail)
    except (ValueError, KeyError, TypeError):
        raise _unreadable(path, "it is no manifest") from None


def _unreadable(path: Path, why: str) -> ArchiveError:
    return ArchiveError(
        f"cannot read the manifest `{path}`: {why}",
        help=f"{recovery_of(path)}; without it nobody knows what was exported",
    )


def _as_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "version": VERSION,
        "trail": manifest.trail,
        "before": asdict(manifest.before),
        "files": [asdict(file) for file in manifest.files],
    }
