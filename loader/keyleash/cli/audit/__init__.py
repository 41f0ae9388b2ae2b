"""`keyleash audit`: what identities did, what they were refused, and what operators did."""

from __future__ import annotations

import click

from keyleash.cli.audit.as_of import as_of
from keyleash.cli.audit.follow import follow
from keyleash.cli.audit.log import log
from keyleash.cli.audit.report import report
from keyleash.cli.audit.show import show
from keyleash.cli.audit.stats import stats
from keyleash.cli.audit.timeline import timeline
from keyleash.cli.export import export, verify
from keyleash.cli.groups import Group
from keyleash.cli.options import example


@click.group(cls=Group, epilog=example("keyleash audit log agent-runner --since 10m"))
def audit() -> None:
    """Read the trails of what identities did."""


for command in (log, follow, show, timeline, as_of, stats, report, export, verify):
    audit.add_command(command)
