"""Audit and undo for operators."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Unpack

from keyleash.api import calls
from keyleash.api.inputs import positive
from keyleash.audit import (
    AuditEvent,
    ControlEvent,
    Denial,
    EventDetails,
    Stats,
    Timeline,
    read_details,
)
from keyleash.audit.export import (
    ArchiveReport,
    Exported,
    ExportResult,
    export_streams,
    follow_export,
)
from keyleash.audit.point_in_time import ValueThen
from keyleash.audit.report.html import HtmlReport
from keyleash.audit.selection import (
    ActionFilters,
    DenialFilters,
    EventFilters,
    FollowDenialFilters,
    FollowFilters,
    ReadTimes,
    UndoFilters,
)
from keyleash.audit.undo import UndoPlan, UndoResult, apply_undo
from keyleash.operations import F, Noun, method, reading_method
from keyleash.policy.quantities import Duration, Moment, seconds_of
from keyleash.results import Progress


class AuditOperations(Noun[F]):
    """The audit log: `Operator.audit`.

    Common arguments: *identities* are names, all known ones if there are none; *since* and *until*
    are times by the server's clock: an aware `datetime`, ISO 8601 text, or how long ago, as text
    (`10m`) or `timedelta`.
    """

    @reading_method
    def events(
        self, *identities: str, newest_first: bool = False, **filters: Unpack[EventFilters]
    ) -> Iterator[AuditEvent]:
        """Yield audit events by time, those of a batch command by command.

        Args:
            identities: Names; all known ones if none is given.
            since: The earliest time: how long ago (`10m` or a `timedelta`), ISO 8601 text, or an
                aware `datetime`; unlimited if None.
            until: The latest time, in the same form.
            key: A key, or a pattern as in policies.
            correlation: The correlation id.
            token_id: The calling token.
            delegated_from: An ancestor of the calling token, by its id.
            op: The command.
            meta: Labels of the calling token, such as `{"run": "r-17"}`.
            newest_first: Whether to begin with the newest.
            on_missing: Called with each node of a cluster that does not answer, and why; its events
                are left out. If None, such a node is an error.

        Raises:
            OperationError (unknown-identity): there never was such an identity.
            OperationError (node-unreachable): a node of a cluster does not answer.
        """
        return self._run.call(calls.select_events, identities, filters, newest_first=newest_first)

    @reading_method
    def denials(
        self, *identities: str, newest_first: bool = False, **filters: Unpack[DenialFilters]
    ) -> Iterator[Denial]:
        """Yield denials by time, with the number of repetitions of each; see `events`.

        Args:
            code: The reply code, such as `RATE_LIMITED`.
        """
        return self._run.call(calls.select_denials, identities, filters, newest_first=newest_first)

    @reading_method
    def control(
        self, *identities: str, newest_first: bool = False, **filters: Unpack[ActionFilters]
    ) -> Iterator[ControlEvent]:
        """Yield operator actions by time; see `events`.

        Args:
            identities: Only actions that concern one of them.
            token_id: Only actions on this token.
            meta: Only actions on tokens with these labels.
        """
        return self._run.call(calls.select_control, identities, filters, newest_first=newest_first)

    @reading_method
    def follow(self, *identities: str, **filters: Unpack[FollowFilters]) -> Iterator[AuditEvent]:
        """Yield events as they are recorded, without end.

        Identities that are loaded meanwhile are followed too, if none is named.

        Args:
            identities: Names; all known ones if none is given.
            since: Also yield what was recorded from then on, in the forms of `events`; only what is
                new if None.

        Other filters are those of `events`.
        """
        return self._run.call(calls.follow_events, identities, filters)  # type: ignore[arg-type]

    @reading_method
    def follow_denials(
        self, *identities: str, **filters: Unpack[FollowDenialFilters]
    ) -> Iterator[Denial]:
        """Yield denials as they are recorded, without end; see `follow` and `denials`.

        A repeated denial is yielded again, with its count, at the end of its minute.
        """
        return self._run.call(calls.follow_denials, identities, filters)  # type: ignore[arg-type]

    @reading_method
    def follow_control(
        self, *identities: str, since: Moment | None = None, token_id: str | None = None
    ) -> Iterator[ControlEvent]:
        """Yield operator actions as they are recorded, without end; see `follow` and `control`."""
        filters = {"since": since, "token_id": token_id}
        return self._run.call(calls.follow_control, identities, filters)  # type: ignore[arg-type]

    @method()
    def find(self, event: str, *, values: bool = False) -> EventDetails:
        """Return all that is recorded about one event, denial or operator action.

        Args:
            event: Its id, or `<identity>/<id>` if several streams have that id.
            values: Also read the values of before-images.

        Raises:
            OperationError (unknown-event): there is no such event.
            OperationError (ambiguous-event): several streams have an event of that id.
        """
        return self._run.call(read_details, event, values=values)

    @method()
    def timeline(
        self, key: str | bytes, *, limit: int | None = None, **filters: Unpack[ReadTimes]
    ) -> Timeline:
        """Return the events and denials that concern *key*, oldest first.

        Args:
            key: The key; text may also be escaped as in the output of `keyleash`.
            limit: The maximum number of entries, the newest; all if None.

        Other filters are those of `events`.
        """
        return self._run.call(calls.timeline, key, filters, positive("limit", limit))

    @method()
    def value_at(self, key: str | bytes, time: Moment) -> ValueThen:
        """Return the value of *key* at a past time, from before-images.

        Args:
            key: As for `timeline`.
            time: The time, in the forms of `events`.

        Raises:
            OperationError (unknown-value): it is not recorded.
        """
        return self._run.call(calls.value_at, key, time)

    @method()
    def stats(self, *identities: str, segments: int = 2, **filters: Unpack[ReadTimes]) -> Stats:
        """Count events and denials by identity, command, key prefix and reply code; find gaps.

        Args:
            identities: Names; all known ones if none is given.
            segments: The number of segments in a key prefix.

        Other filters are those of `events`.
        """
        return self._run.call(calls.stats, identities, filters, positive("segments", segments))

    @method()
    def export(
        self,
        directory: str | Path,
        *identities: str,
        take_over: bool = False,
        progress: Progress | None = None,
        on_export: Callable[[Exported], None] | None = None,
        is_stopping: Callable[[], bool] | None = None,
    ) -> ExportResult:
        """Write the new entries of audit streams to an archive, and acknowledge them.

        Args:
            directory: An empty or new directory, or an archive.
            identities: Names; all streams, with that of operator actions, if there are none.
            take_over: Continue although another archive has these streams.
            progress: Called with the number of entries so far, and None.
            on_export: Called with each file once it is acknowledged, also if a later one fails.
            is_stopping: Called between pages; once it returns True, the current file is finished.

        Raises:
            ArchiveError: the directory cannot be used as an archive.
            OperationError (unknown-identity): there never was such an identity.
        """
        return self._run.call(
            export_streams,
            Path(directory),
            identities=identities,
            take_over=take_over,
            progress=progress,
            on_export=on_export,
            is_stopping=is_stopping,
        )

    @reading_method
    def follow_export(
        self,
        directory: str | Path,
        *identities: str,
        every: Duration = "1m",
        take_over: bool = False,
        is_stopping: Callable[[], bool] | None = None,
    ) -> Iterator[Exported]:
        """Keep exporting new entries until *is_stopping*, and yield each file; see `export`.

        Args:
            every: The interval, as text or `timedelta`; shorter while the entries of a whole file
                are waiting.
        """
        return self._run.call(
            follow_export,
            Path(directory),
            every_s=seconds_of("every", every) or 1,
            identities=identities,
            take_over=take_over,
            is_stopping=is_stopping,
        )

    @method()
    def verify(self, directory: str | Path, *, recorded: bool = True) -> ArchiveReport:
        """Check the files of an archive, and with *recorded* the chains in the control stream."""
        return self._run.call(calls.verify, Path(directory), recorded)

    @method()
    def report(
        self,
        *,
        since: Moment | None = None,
        until: Moment | None = None,
        identity: str | None = None,
        correlation: str | None = None,
        server: str = "",
    ) -> HtmlReport:
        """Return an incident report, whose `html` is a page without scripts; it shows values.

        Args:
            since: See `events`.
            until: See `events`.
            identity: The only identity; all if None.
            correlation: The only correlation id; all if None.
            server: The server's name on the page; its address if empty.

        Raises:
            OperationError (nothing-found): there is nothing to report.
        """
        filters = {"since": since, "until": until, "correlation": correlation}
        return self._run.call(calls.incident_report, identity, filters, server)


class UndoOperations(Noun[F]):
    """Undo: `Operator.undo`."""

    @method()
    def plan(
        self,
        *,
        events: Sequence[str] = (),
        identity: str | None = None,
        force: Collection[str | bytes] = (),
        skip: Collection[str | bytes] = (),
        across_policies: bool = False,
        **filters: Unpack[UndoFilters],
    ) -> UndoPlan:
        """Return what an undo of the selected events would restore, and its conflicts.

        Args:
            events: Ids of events, a batch whole; then nothing else selects.
            correlation: All events with this correlation id.
            identity: All events of this identity; needs *since*.
            key: All changes of a key, or of the keys of a pattern; needs *since*.
            since: The earliest time of the events, in the forms of `Operator.audit.events`.
            until: The latest time, in the same form.
            force: Keys whose conflicts are overridden; text may be escaped as in the output.
            skip: Keys that are left as they are, likewise.
            across_policies: Also undo what the active policy does not grant any more.

        Raises:
            ArgumentError: the arguments select nothing, or exclude each other.
            NothingToUndoError: no event is selected, or the events changed nothing.
            OperationError (unknown-event): there is no such event.
            UsageError: a key of *force* or *skip* is not in the plan.
        """
        return self._run.call(
            calls.plan_selected,
            filters,
            events=tuple(events),
            identity=identity,
            forced=force,
            skipped=skip,
            across_policies=across_policies,
        )

    @method()
    def apply(self, plan: UndoPlan) -> UndoResult:
        """Restore all keys of a plan atomically; the undo can be undone by its correlation id.

        Raises:
            OperationError (undo-denied): the plan has conflicts; nothing was changed.
            OperationError (changed-meanwhile): a key changed since the plan; nothing was changed.
        """
        return self._run.call(apply_undo, plan)
