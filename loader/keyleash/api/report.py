"""The incident report, with the limits of identities now."""

from __future__ import annotations

from keyleash.addons.report.html import HtmlReport, gather
from keyleash.addons.status.identities import identity_statuses
from keyleash.audit.lookup import nothing_found
from keyleash.audit.selection import Correlation, OneIdentity, Since, Until, query_of
from keyleash.audit.streams import stream_names
from keyleash.operations import operation
from keyleash.store.connect import server_name
from keyleash.store.records import read_active
from keyleash.store.store import Store


@operation("audit report")
def incident_report(
    store: Store,
    *,
    since: Since | None = None,
    until: Until | None = None,
    identity: OneIdentity | None = None,
    correlation: Correlation | None = None,
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
    query = query_of(store, {"since": since, "until": until, "correlation": correlation})
    names = stream_names(store, [identity] if identity else ())
    active = read_active(store)
    found = gather(
        store,
        names,
        query,
        server=server or server_name(store.client),
        identity=identity,
        statuses=identity_statuses(store, active, store.now_ms()) if active else (),
    )
    if found is None:
        raise nothing_found("event or denial", query, store.now_ms())
    return found
