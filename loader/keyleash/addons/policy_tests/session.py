"""Run files of policy tests on the model, and on a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from keyleash.addons.policy_tests.guards import Guards
from keyleash.addons.policy_tests.parse import read_suites
from keyleash.addons.policy_tests.run import TestReport, run_suites
from keyleash.addons.servers import EmbeddedServer
from keyleash.commands import known_table
from keyleash.policy.files import ReadText, read_text
from keyleash.store.connect import connect, shown_url
from keyleash.store.server_check import require_supported


def run_tests(
    files: Sequence[str],
    *,
    server: str | None = "",
    timeout_s: float | None = None,
    min_coverage: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    read: ReadText = read_text,
) -> TestReport:
    """Run test files; see `Policy.run_tests`."""
    with _guards(server, timeout_s) as (guards, label):
        shipped = known_table()
        table = shipped if guards is None else guards.table
        suites = read_suites(files, shipped.extended(table.commands), read)
        report = run_suites(suites, table, guards, progress or (lambda _done, _total: None))
    return replace(report, server=label, required=min_coverage)


@contextmanager
def _guards(url: str | None, timeout_s: float | None) -> Iterator[tuple[Guards | None, str | None]]:
    """Yield guards and the server's name: an embedded one if *url* is empty, none if it is None."""
    if url is None:
        yield None, None
    elif url:
        client = connect(url, timeout_s)
        require_supported(client)
        guards = None
        try:
            guards = Guards(client)
            yield guards, shown_url(url)
        finally:
            if guards is not None:
                guards.release()
    else:
        with EmbeddedServer() as server:
            guards = Guards(connect(server.url))
            # Guards decide also about commands of modules that their server lacks, but ask it for
            # the samples of TS.RANGE.
            modules = (spec for spec in known_table() if "." in spec.name)
            known = {spec.name: spec for spec in modules if not spec.name.endswith("RANGE")}
            guards.table = guards.table.extended(known)
            yield guards, "an embedded server"
