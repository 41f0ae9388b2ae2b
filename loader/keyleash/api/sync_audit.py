"""Audit and undo for operators."""
# Generated from api/aio_audit.py by `make sync`: edit that file.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from keyleash.api import calls
from keyleash.api.calls import Selection
from keyleash.api.inputs import Moment
from keyleash.api.run import Runner
from keyleash.audit import AuditEvent, ControlEvent, Denial
from keyleash.audit.export import ArchiveReport, Exported, FileFormat
from keyleash.audit.point_in_time import ValueThen
from keyleash.audit.report.html import HtmlReport
from keyleash.audit.undo import UndoPlan, UndoResult, apply_undo


class AuditOperations:
    """The audit log: `Operator.audit`.

    Common arguments: *identities* are names, all known ones if there are none; *since* and *until*
    are times by the server's clock: an aware `datetime`, ISO 8601 text, or how long ago, as text
    (`10m`) or `timedelta`.
    """

    def __init__(self, run: Runner) -> None:
        self._run = run

    def events(
        self,
        *identities: str,
        since: Moment | None = None,
        until: Moment | None = None,
        key: str | bytes | None = None,
        correlation: str | None = None,
        token_id: str | None = None,
        op: str | None = None,
        newest_first: bool = False,
    ) -> Iterator[AuditEvent]:
        """Yield audit events by time, those of a batch command by command.

        Args:
            identities, since, until: See the class.
            key: A key, or a pattern as in policies.
            correlation: The correlation id.
            token_id: The calling token.
            op: The command.
            newest_first: Whether to begin with the newest.

        Raises:
            OperationError (unknown-identity): there never was such an identity.
        """
        selection = Selection(since, until, key, correlation, token_id, op)
        return self._run.iterate(
            calls.select_events, identities, selection, newest_first=newest_first
        )

    def denials(
        self,
        *identities: str,
        since: Moment | None = None,
        until: Moment | None = None,
        key: str | bytes | None = None,
        correlation: str | None = None,
        token_id: str | None = None,
        op: str | None = None,
        code: str | None = None,
        newest_first: bool = False,
    ) -> Iterator[Denial]:
        """Yield denials by time, with the number of repetitions of each; see `events`.

        Args:
            code: The reply code, such as `RATE_LIMITED`.
        """
        selection = Selection(since, until, key, correlation, token_id, op, code)
        return self._run.iterate(
            calls.select_denials, identities, selection, newest_first=newest_first
        )

    def control(
        self,
        *identities: str,
        since: Moment | None = None,
        until: Moment | None = None,
        newest_first: bool = False,
    ) -> Iterator[ControlEvent]:
        """Yield operator actions by time; see `events`."""
        return self._run.iterate(
            calls.select_control, identities, Selection(since, until), newest_first=newest_first
        )

    def follow(self, *identities: str, since: Moment | None = None) -> Iterator[AuditEvent]:
        """Yield events as they are recorded, without end.

        Identities that are loaded meanwhile are followed too, if none is named.

        Args:
            identities: See the class.
            since: Also yield what was recorded from then on; only what is new if None.
        """
        return self._run.iterate(calls.follow_events, identities, since)

    def follow_denials(self, *identities: str, since: Moment | None = None) -> Iterator[Denial]:
        """Yield denials as they are recorded, without end; see `follow`."""
        return self._run.iterate(calls.follow_denials, identities, since)

    def timeline(
        self, key: str | bytes, *, since: Moment | None = None, until: Moment | None = None
    ) -> list[AuditEvent | Denial]:
        """Return every trusted event and every denial that concerns *key*, oldest first."""
        return self._run.call(calls.timeline, key, Selection(since, until))

    def value_at(self, key: str | bytes, time: Moment) -> ValueThen:
        """Return the value of *key* at a past time, from before-images.

        Raises:
            OperationError (unknown-value): it is not recorded.
        """
        return self._run.call(calls.value_at, key, time)

    def export(
        self,
        directory: str | Path,
        *identities: str,
        file_format: str = "jsonl",
        take_over: bool = False,
    ) -> list[Exported]:
        """Write the new entries of all audit streams to an archive, and acknowledge them.

        Args:
            directory: An empty or new directory, or an archive.
            identities: See the class; denials and operator actions are exported always.
            file_format: `jsonl` or `parquet`.
            take_over: Continue although another archive has these streams.

        Raises:
            ArchiveError: the directory cannot be used as an archive.
        """
        return self._run.call(
            calls.export_streams, Path(directory), identities, FileFormat(file_format), take_over
        )

    def verify(self, directory: str | Path, *, recorded: bool = True) -> ArchiveReport:
        """Check the files of an archive, and with *recorded* the chains in the control stream."""
        return self._run.call(calls.verify, Path(directory), recorded)

    def report(
        self,
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        identity: str | None = None,
        correlation: str | None = None,
    ) -> HtmlReport:
        """Return an incident report, whose `html` is a page without scripts; it shows values.

        Raises:
            OperationError (nothing-found): there is nothing to report.
        """
        return self._run.call(
            calls.incident_report, identity, Selection(since, until, correlation=correlation)
        )


class UndoOperations:
    """Undo: `Operator.undo`."""

    def __init__(self, run: Runner) -> None:
        self._run = run

    def plan(
        self,
        *,
        events: Sequence[str] = (),
        correlation: str | None = None,
        identity: str | None = None,
        key: str | bytes | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        force: Sequence[bytes] = (),
        skip: Sequence[bytes] = (),
        across_policies: bool = False,
    ) -> UndoPlan:
        """Return what an undo of the selected events would restore, and its conflicts.

        Args:
            events: Ids of events, a batch whole; then nothing else selects.
            correlation: All events with this correlation id.
            identity: All events of this identity; needs *since*.
            key: All changes of a key, or of the keys of a pattern; needs *since*.
            since, until: The time range of the events.
            force: Keys whose conflicts are overridden.
            skip: Keys that are left as they are.
            across_policies: Also undo what the active policy does not grant any more.

        Raises:
            TypeError: the arguments select nothing, or exclude each other.
            OperationError (unknown-event): there is no such event.
        """
        return self._run.call(
            calls.plan_selected,
            events=tuple(events),
            correlation=correlation,
            identity=identity,
            key=key,
            since=since,
            until=until,
            forced=frozenset(force),
            skipped=frozenset(skip),
            across_policies=across_policies,
        )

    def apply(self, plan: UndoPlan) -> UndoResult:
        """Restore all keys of a plan atomically; the undo can be undone by its correlation id.

        Raises:
            OperationError (undo-denied): the plan has conflicts; nothing was changed.
            OperationError (changed-meanwhile): a key changed since the plan; nothing was changed.
        """
        return self._run.call(apply_undo, plan)
