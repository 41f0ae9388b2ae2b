"""`keyleash doctor`: diagnose a deployment."""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.failures import FAILED, NOT_PERMITTED
from keyleash.cli.nodes import urls_option
from keyleash.cli.options import example, json_option
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note, read_input
from keyleash.doctor.examine import require_codes
from keyleash.errors import UsageError
from keyleash.policy.problems import quote
from keyleash.store.connect import NODE_TIMEOUT_S
from keyleash.text import counted, printable

if TYPE_CHECKING:
    from keyleash.doctor import Examination
    from keyleash.doctor.findings import CheckResult

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
@json_option
@pass_settings
def doctor(settings: Settings, nodes: tuple[str, ...], accept: tuple[str, ...]) -> int:
    """Diagnose servers, records, scripts, users and clocks (read-only).

    Exits with 1 if there is an error or a warning that is not accepted, otherwise with 0. Checks
    that the user of the URL may not make are listed as skipped; if all are skipped, the exit code
    is 77.
    """
    examination = settings.unconnected().doctor(
        nodes=nodes,
        accept={*accept, *accepted_findings()},
        timeout=settings.timeout_s or NODE_TIMEOUT_S,
    )
    if settings.json:
        print_json(examination)
    else:
        _print(examination)
    if not examination.is_healthy:
        return FAILED
    return NOT_PERMITTED if examination.is_blind else 0


def _print(examination: Examination) -> None:
    for item in examination.accepted:
        click.echo(f"{_where(item)}accepted: {printable(item.message)} [{item.code}]")
    for finding in examination.findings:
        severity = click.style(finding.severity, fg=COLOURS[finding.severity], bold=True)
        click.echo(f"{_where(finding)}{severity}: {printable(finding.message)} [{finding.code}]")
        click.echo(f"  help: {printable(finding.help)}")
    for skipped in examination.skipped:
        click.echo(f"{_where(skipped)}not checked: {skipped.check}: {printable(skipped.reason)}")
    print_note(_summary(examination))


def _where(result: CheckResult) -> str:
    return f"{result.node}: " if result.node else ""


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
        raise _bad(file, "has something else than strings in `accept`")
    require_codes(codes, file)
    return tuple(codes)


def _bad(file: str, problem: str) -> UsageError:
    return UsageError(
        f"the configuration file {quote(file)} {problem}",
        help='write `[doctor]`, and below it `accept = ["vulnerable-version"]`',
    )
