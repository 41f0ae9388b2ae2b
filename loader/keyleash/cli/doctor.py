"""`keyleash doctor`: diagnose a deployment."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import click

from keyleash.addons.doctor.config import accepted_findings
from keyleash.cli.nodes import urls_option
from keyleash.cli.options import example, with_settings
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_note
from keyleash.errors.operations import FAILED, NOT_PERMITTED
from keyleash.store.connect import NODE_TIMEOUT_S
from keyleash.text import printable

if TYPE_CHECKING:
    from keyleash.addons.doctor.examine import Examination
    from keyleash.addons.doctor.findings import DoctorFinding, Skipped

R = TypeVar("R", "DoctorFinding", "Skipped")
COLOURS = {"error": "red", "warning": "yellow", "advice": "cyan"}


@click.command(epilog=example("keyleash doctor --node redis://10.0.0.2:6379"))
@urls_option(
    "--node",
    "KEYLEASH_NODES",
    "A further server; repeatable. Replicas and primaries of the servers are found automatically.",
)
@click.option(
    "--accept",
    metavar="CODE",
    multiple=True,
    help="Accept findings with this code; repeatable. Also `doctor.accept` in"
    " keyleash.toml, or in the file that KEYLEASH_CONFIG names.",
)
@with_settings
def doctor(settings: Settings, nodes: tuple[str, ...], accept: tuple[str, ...]) -> int:
    """Diagnose servers, records, scripts, users and clocks (read-only).

    Of a cluster, all nodes and their slots.

    Exits with 1 if there is an error or a warning that is not accepted, otherwise with 0. Checks
    that the user of the URL may not make are listed as skipped; if all are skipped, the exit code
    is 77.
    """
    examination = settings.unconnected().doctor(
        nodes=nodes,
        accept={*accept, *accepted_findings()},
        timeout=settings.timeout_s or NODE_TIMEOUT_S,
    )
    settings.show(examination, lambda: _print(examination))
    if not examination.is_healthy:
        return FAILED
    return NOT_PERMITTED if examination.is_blind else 0


def _print(examination: Examination) -> None:
    for where, item in _grouped(examination.accepted):
        click.echo(f"{where}accepted: {printable(item.message)} [{item.code}]")
    for where, finding in _grouped(examination.findings):
        severity = click.style(finding.severity, fg=COLOURS[finding.severity], bold=True)
        click.echo(f"{where}{severity}: {printable(finding.message)} [{finding.code}]")
        click.echo(f"  help: {printable(finding.help)}")
    for where, skipped in _grouped(examination.skipped):
        click.echo(f"{where}not checked: {skipped.check}: {printable(skipped.reason)}")
    print_note(examination.summary)


def _grouped(results: Sequence[R]) -> Iterator[tuple[str, R]]:
    """Yield the names of all servers with an equal result, and that result."""
    servers: dict[R, list[str]] = defaultdict(list)
    for result in results:
        servers[replace(result, node=None)].append(result.node or "")
    for result, names in servers.items():
        where = ", ".join(filter(None, names))
        yield (f"{where}: " if where else ""), result
