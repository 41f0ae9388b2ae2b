"""`keyleash vault adopt` and `release`: keys go in and out."""

from __future__ import annotations

import click

from keyleash.cli.errors import DeclinedError
from keyleash.cli.options import example, json_option, require_consent, yes_option
from keyleash.cli.output import print_json
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.text import counted
from keyleash.cli.vault.parameters import key_patterns
from keyleash.cli.vault.showing import shown_progress


@click.command(epilog=example("keyleash vault adopt 'agents:jobs:{job_id}:state'"))
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True, callback=key_patterns)
@yes_option
@json_option
@pass_settings
def adopt(settings: Settings, patterns: tuple[str, ...], yes: bool) -> None:
    """Move keys into the vault.

    All keys that match a PATTERN, which is as in a policy. From then on agents find them, and
    whoever connects without keyleash does not. Each key moves at once, with its expiry; nothing
    is overwritten. Run it again after an interruption. Suspend agents meanwhile if they must not
    see some of the keys without the others.
    """
    from keyleash.vault import adopt_keys

    _require_consent("into the vault", patterns, yes)
    client = settings.client
    with settings.changing("run it again"), shown_progress(not settings.json) as report:
        moved = adopt_keys(client, patterns, report)
    _tell(settings, moved.count, "into the vault")


@click.command(epilog=example("keyleash vault release 'agents:jobs:{job_id}:result'"))
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True, callback=key_patterns)
@yes_option
@json_option
@pass_settings
def release(settings: Settings, patterns: tuple[str, ...], yes: bool) -> None:
    """Move keys out of the vault.

    The reverse of `vault adopt`: agents do not find them any more.
    """
    from keyleash.vault import release_keys

    _require_consent("out of the vault", patterns, yes)
    client = settings.client
    with settings.changing("run it again"), shown_progress(not settings.json) as report:
        moved = release_keys(client, patterns, report)
    _tell(settings, moved.count, "out of the vault")


def _require_consent(where: str, patterns: tuple[str, ...], yes: bool) -> None:
    named = ", ".join(f"`{pattern}`" for pattern in patterns)
    if not require_consent(f"move every key that matches {named} {where}?", yes):
        raise DeclinedError("nothing was moved")


def _tell(settings: Settings, count: int, where: str) -> None:
    if settings.json:
        print_json({"server": settings.shown_url, "moved": count})
    else:
        click.echo(f"{counted(count, 'key')} moved {where}")
