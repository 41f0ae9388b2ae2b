"""Before a trail is exported: that it is nobody else's, and that the archive has a group on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from keyleash.audit.export.archive import Archive
from keyleash.audit.export.folder import TrailFolder
from keyleash.audit.export.group import ConsumerGroup
from keyleash.audit.export.sequence import SequenceCheck
from keyleash.audit.export.trail import Trail
from keyleash.errors import ArchiveTakenError
from keyleash.protocol.active import Client


@dataclass(slots=True)
class OpenTrail:
    """
    A trail whose stream is there, ready to be exported.

    Attributes:
        sequence: After the last number of the archive.
        caught_up: Whether the server had no more when it was asked last.
    """

    trail: Trail
    group: ConsumerGroup
    folder: TrailFolder
    sequence: SequenceCheck
    caught_up: bool = False


def open_trails(
    client: Client, archive: Archive, trails: Iterable[Trail], *, take_over: bool
) -> Iterator[OpenTrail]:
    """
    Open those of *trails* whose streams are there.

    Args:
        client: An operator's client.
        archive: Locked.
        trails: None of which is open.
        take_over: Go on where another archive has them, or the server lost them.

    Raises:
        ArchiveTakenError: another archive has one, or the archive another server's.
        ArchiveError: a folder is not as its manifest has it.
    """
    ready = [_ready(client, archive, trail) for trail in trails]
    # All are looked at before the first is changed.
    for one in ready:
        if not take_over:
            _require_ours(one)
    for one in ready:
        if one.group.exists() or one.group.create():
            _require_alone(one, take_over=take_over)
            yield one


def _ready(client: Client, archive: Archive, trail: Trail) -> OpenTrail:
    group = ConsumerGroup(client, trail.stream, archive.id, archive.place)
    folder = TrailFolder(archive, trail)
    return OpenTrail(trail, group, folder, SequenceCheck(folder.head.last_seq))


def _require_ours(one: OpenTrail) -> None:
    """See to it that no other archive has the stream, and what the archive has is from it."""
    for place in one.group.others().values():
        raise _taken(one.trail, place)
    if one.folder.head.files and one.group.stream_exists() and not one.group.exists():
        raise ArchiveTakenError(
            f"the trail `{one.trail.name}` is not the one that `{one.folder.path}` was exported"
            " from",
            help="name another directory for another server; if the server was restored or lost"
            " its data, go on with `--take-over`",
        )


def _require_alone(one: OpenTrail, *, take_over: bool) -> None:
    for name, place in one.group.others().items():
        if not take_over:
            # Both came at once. Nothing was delivered yet.
            one.group.destroy(one.group.name)
            raise _taken(one.trail, place)
        one.group.destroy(name)


def _taken(trail: Trail, place: str) -> ArchiveTakenError:
    return ArchiveTakenError(
        f"the trail `{trail.name}` is exported to another archive, begun at `{place}`",
        help="export to that one; or begin one here, with all that the server still has, by"
        " `--take-over`: that one is not gone on with then",
    )
