"""`keyleash doctor`: diagnose a deployment."""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.failures import FAILED, NOT_PERMITTED
from keyleash.cli.options import example, json_option
from keyleash.cli.settings import Settings, node_client, node_of, pass_settings
from keyleash.cli.terminal import print_json, print_note, read_input
from keyleash.cli.watch import without_secrets
from keyleash.doctor import examine
from keyleash.doctor.examine import require_codes
from keyleash.errors import UsageError
from keyleash.policy.problems import quote
from keyleash.store.records import Client
from keyleash.text import counted, printable
from keyleash.watch import Address

if TYPE_CHECKING:
    from keyleash.doctor import DoctorFinding, Examination
    from keyleash.watch import Address

COLOURS = {"error": "red", "warning": "yellow", "advice": "cyan"}


@click.command(epilog=example("keyleash doctor --node redis://10.0.0.2:6379"))
@click.option(
    "--node",
    "nodes",
    metavar="URL",
    multiple=True,
    envvar="KEYLEASH_NODES",
    callback=without_secrets,
    help="A further server; repeatable. Replicas and primaries of the servers are found"
    " automatically.  [env var: KEYLEASH_NODES, with spaces between]",
)
@click.option(
    "--accept",
    metavar="CODE",
    multiple=True,
    help="Accept findings with this code; repeatable. Also `doctor.accept` in"
    " keyleash.toml, or in the file that KEYLEASH_CONFIG names.",
)
@json_option
@pass_settings
def doctor(settings: Settings, nodes: tuple[str, ...], accept: tuple[str, ...]) -> int:
    """Diagnose servers, records, scripts, users and clocks (read-only).

    Exits with 1 if there is an error or a warning that is not accepted, otherwise with 0. Checks
    that the user of the URL may not make are listed as skipped; if all are skipped, the exit code
    is 77.
    """
    accepted = {*accept, *accepted_findings()}
    connect, seeds = _servers(settings, nodes)
    examination = examine(connect, seeds, accept=accepted)
    if settings.json:
        print_json(_as_json(examination))
    else:
        _print(examination)
    if not examination.is_healthy:
        return FAILED
    return NOT_PERMITTED if examination.is_blind else 0


def _servers(settings: Settings, nodes: Sequence[str]) -> tuple[Any, list[Address]]:

    urls = {Address(*node_of(url)): url for url in (settings.url, *nodes)}
    first = next(iter(urls))

    def connect(address: Address) -> Client:
        if address == first:
            return settings.client
        url = urls.get(address, settings.url)
        return node_client(url, settings.url, address, settings.timeout_s)

    return connect, list(urls)


def _print(examination: Examination) -> None:
    for item in examination.accepted:
        where = f"{item.node}: " if item.node else ""
        click.echo(f"{where}accepted: {printable(item.message)} [{item.code}]")
    for finding in examination.findings:
        where = f"{finding.node}: " if finding.node else ""
        severity = click.style(finding.severity, fg=COLOURS[finding.severity], bold=True)
        click.echo(f"{where}{severity}: {printable(finding.message)} [{finding.code}]")
        click.echo(f"  help: {printable(finding.help)}")
    for skipped in examination.skipped:
        where = f"{skipped.node}: " if skipped.node else ""
        click.echo(f"{where}not checked: {skipped.check}: {printable(skipped.reason)}")
    print_note(_summary(examination))


def _summary(examination: Examination) -> str:
    looked = counted(len(examination.servers), "server")
    count = Counter(str(finding.severity) for finding in examination.findings)
    numbers = [counted(count[name], name) for name in ("error", "warning") if count[name]]
    # "advice" has no plural.
    numbers += [f"{count['advice']} advice"] if count["advice"] else []
    found = ", ".join(numbers) or "no finding"
    if examination.accepted:
        found += f", {len(examination.accepted)} accepted"
    if not examination.skipped:
        return f"{looked}: {found}"
    return f"{looked}: {found}; {counted(len(examination.skipped), 'check')} could not be made"


def _as_json(examination: Examination) -> dict[str, Any]:
    return {
        "servers": [
            {"name": server.name, "role": None if server.role is None else str(server.role)}
            for server in examination.servers
        ],
        "findings": [_finding_as_json(finding) for finding in examination.findings],
        "accepted": [_finding_as_json(item) for item in examination.accepted],
        "skipped": [
            {"check": item.check, "node": item.node or None, "reason": item.reason}
            for item in examination.skipped
        ],
    }


def _finding_as_json(finding: DoctorFinding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": str(finding.severity),
        "node": finding.node or None,
        "message": finding.message,
        "help": finding.help,
    }


VARIABLE = "KEYLEASH_CONFIG"
CONFIG_FILE = "keyleash.toml"


def accepted_findings() -> tuple[str, ...]:
    """
    Return the codes under `doctor.accept` of the configuration file.

    The file is the one that KEYLEASH_CONFIG names, or `keyleash.toml` in the working directory
    if there is one.

    Raises:
        OperationError (file): The file cannot be read.
        UsageError: It is not TOML, or has another setting.
        OperationError (unknown-code): It accepts a finding that does not exist.
    """
    named = os.environ.get(VARIABLE)
    file = named or CONFIG_FILE
    if not named and not Path(file).exists():
        return ()
    try:
        document = tomllib.loads(read_input(file).decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(file, f"is not TOML: {error}") from None
    doctor: Any = document.pop("doctor", {})
    codes = doctor.pop("accept", []) if isinstance(doctor, dict) else None
    if document or doctor or not isinstance(codes, list):
        raise _bad(file, "may have the list `accept` under `doctor`, and no other setting")
    if not all(isinstance(code, str) for code in codes):
        raise _bad(file, "has something else than texts in `accept`")
    require_codes(codes, file)
    return tuple(codes)


def _bad(file: str, problem: str) -> UsageError:
    return UsageError(
        f"the configuration file {quote(file)} {problem}",
        help='write `[doctor]`, and below it `accept = ["vulnerable-version"]`',
    )
