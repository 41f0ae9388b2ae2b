"""`keyleash fence apply`: make the users what the policy says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.errors import DeclinedError
from keyleash.cli.fence.nodes import say_unnamed
from keyleash.cli.fence.options import Asked, asked_options
from keyleash.cli.options import example, json_option, require_consent, yes_option
from keyleash.cli.output import print_json, say
from keyleash.cli.settings import Settings, pass_settings

if TYPE_CHECKING:
    from keyleash.cli.fence.meant import Meant
    from keyleash.fence import Outcome


@click.command(epilog=example("keyleash fence apply --mint --yes > passwords"))
@asked_options
@click.option(
    "--mint",
    "mints",
    is_flag=True,
    help="Make a password for those who have none and print it, this once: identity, blank,"
    " password.",
)
@yes_option
@json_option
@pass_settings
def apply(settings: Settings, /, mints: bool, yes: bool, **options: Any) -> None:
    """Make one ACL user for each identity of the active policy, of the same name.

    Changes users that keyleash made, and no others; deletes those of identities that left the
    policy, which closes their connections. Looks afterwards whether each server has them as they
    are meant. FILE, if given, must be the active policy.
    """
    from keyleash.cli.fence.meant import needs_work, read_meant
    from keyleash.cli.fence.showing import print_passwords, say_notes, say_steps
    from keyleash.fence import ForeignUserError, apply_fences

    meant = read_meant(settings, Asked(**options), mints=mints)
    steps = meant.steps(settings)
    if needs_work(steps):
        say_steps(steps)
        say_notes(meant)
        if not require_consent("change these users?", yes):
            raise DeclinedError("nothing was changed")
    try:
        with settings.changing("look at `keyleash fence plan`"):
            outcome = apply_fences(
                meant.nodes,
                settings.keyspace,
                meant.wanted,
                meant.records,
                wide=meant.wide,
                actor=settings.actor,
            )
    except ForeignUserError:
        raise
    except Exception:
        # Some server may have them already, and nobody else knows them.
        print_passwords(meant.minted)
        raise
    if settings.json:
        print_json(_as_json(meant, outcome))
    else:
        _tell(meant, outcome)
        say_unnamed(settings.client, len(meant.nodes) - 1)


def _tell(meant: Meant, outcome: Outcome) -> None:
    from keyleash.cli.fence import showing

    showing.print_passwords(meant.minted)
    showing.say_off(meant, outcome.steps)
    showing.say_opened(outcome.without_digests)
    if outcome.changed:
        showing.say_unsaved(outcome.unsaved)
    say("done, and verified" if outcome.changed else "nothing changed; verified")


def _as_json(meant: Meant, outcome: Outcome) -> dict[str, Any]:
    from keyleash.cli.fence.showing import notes_as_json, passwords_as_json, step_as_json

    return {
        "changed": outcome.changed,
        "users": [step_as_json(step) for step in outcome.steps],
        "passwords": passwords_as_json(meant.minted),
        "notes": notes_as_json(meant),
        "without_digests": [
            {"server": server, "identity": name} for server, name in outcome.without_digests
        ],
        "unsaved": list(outcome.unsaved),
    }
