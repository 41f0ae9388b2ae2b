"""`keyleash fence`: manage the ACL users of agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from keyleash.cli.fence_state import (
    FenceOptions,
    aclfile,
    fence_options,
    named_clients,
    needs_work,
    node_option,
    read_desired_state,
    read_hashes,
    redis_cli,
    say_unlisted_replicas,
)
from keyleash.cli.options import (
    FILE,
    IDENTITY,
    Group,
    example,
    json_option,
    require_consent,
    yes_option,
)
from keyleash.cli.render.fence import (
    notes_as_json,
    passwords_as_json,
    print_passwords,
    print_steps,
    say_notes,
    say_off,
    say_opened,
    say_steps,
    say_unsaved,
    step_as_json,
)
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.terminal import print_json, print_note
from keyleash.errors import (
    OperationError,
    UsageError,
)
from keyleash.fence import (
    AclStepKind,
    FenceNode,
    ForeignUserError,
    NotFencedError,
    RotationUnfinishedError,
    add_passwords,
    apply_fences,
    drop_old_passwords,
    generate_password,
    read_records,
    remove_fences,
)
from keyleash.fence.rotate import require_fenced
from keyleash.text import counted

if TYPE_CHECKING:
    from keyleash.cli.fence_state import DesiredState
    from keyleash.fence import AclStep, FenceOutcome, GeneratedPassword


@click.command(epilog=example("keyleash fence plan --output acl >> users.acl"))
@fence_options
@click.option(
    "--output",
    type=click.Choice(["acl", "redis-cli"]),
    help="Print the users instead: as lines of an ACL file, or for redis-cli's standard input.",
)
@json_option
@pass_settings
def plan(settings: Settings, /, output: str | None, **options: Any) -> int:
    """Show what `fence apply` would do, and why; nothing is changed.

    FILE must be the active policy, which is also the default. Exits with 0 if every user is as
    desired, otherwise with 1.
    """
    desired = read_desired_state(settings, FenceOptions(**options))
    steps = desired.steps(settings)
    if output is not None:
        _print_users(desired, steps, output)
        return 0
    due = needs_work(steps)
    if settings.json:
        print_json(
            {
                "changes": due,
                "users": [step_as_json(step) for step in steps],
                "notes": notes_as_json(desired),
            }
        )
        return int(due)
    print_steps(steps)
    say_notes(desired)
    say_off(desired, steps)
    say_opened([(step.node.name, step.identity) for step in steps if step.is_without_digests])
    if not due:
        print_note("nothing to change")
    return int(due)


def _print_users(desired: DesiredState, steps: Sequence[AclStep], output: str) -> None:

    left_out = {
        step.identity for step in steps if step.kind in (AclStepKind.HELD, AclStepKind.FOREIGN)
    }
    users = [item for item in desired.wanted if item.fence.identity not in left_out]
    click.echo(aclfile(users) if output == "acl" else redis_cli(users), nl=False)
    for name in sorted(left_out):
        print_note(f"note: `{name}` is left out; `keyleash fence plan` shows why")
    say_notes(desired)


@click.command(epilog=example("keyleash fence apply --mint --yes > passwords"))
@fence_options
@click.option(
    "--mint",
    "generate",
    is_flag=True,
    help="Generate a password for users without one and print it once: identity, blank, password.",
)
@yes_option
@json_option
@pass_settings
def apply(settings: Settings, /, generate: bool, yes: bool, **options: Any) -> None:
    """Create an ACL user for each identity of the active policy, with the same name.

    Changes only users that keyleash made; deletes those of identities that left the policy, which
    closes their connections. Verifies the users on each server. FILE, if given, must be the active
    policy.
    """
    desired = read_desired_state(settings, FenceOptions(**options), generate=generate)
    steps = desired.steps(settings)
    if needs_work(steps):
        say_steps(steps)
        say_notes(desired)
        if not require_consent("change these users?", yes):
            raise OperationError("declined", "nothing was changed")
    try:
        with settings.changing("check `keyleash fence plan`"):
            outcome = apply_fences(
                desired.nodes,
                settings.keyspace,
                desired.wanted,
                desired.records,
                wide=desired.wide,
                actor=settings.actor,
            )
    except ForeignUserError:
        raise
    except Exception:
        # Some servers may have them already, and they are stored nowhere else.
        print_passwords(desired.generated)
        raise
    if settings.json:
        print_json(_as_json(desired, outcome))
    else:
        _print_outcome(desired, outcome)
        say_unlisted_replicas(settings.client, len(desired.nodes) - 1)


def _print_outcome(desired: DesiredState, outcome: FenceOutcome) -> None:
    print_passwords(desired.generated)
    say_off(desired, outcome.steps)
    say_opened(outcome.without_digests)
    if outcome.changed:
        say_unsaved(outcome.unsaved)
    print_note("done, and verified" if outcome.changed else "nothing changed; verified")


def _as_json(desired: DesiredState, outcome: FenceOutcome) -> dict[str, Any]:

    return {
        "changed": outcome.changed,
        "users": [step_as_json(step) for step in outcome.steps],
        "passwords": passwords_as_json(desired.generated),
        "notes": notes_as_json(desired),
        "without_digests": [
            {"server": server, "identity": name} for server, name in outcome.without_digests
        ],
        "unsaved": list(outcome.unsaved),
    }


@click.command(epilog=example("keyleash fence remove agent-runner"))
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
@click.option("--all", "everything", is_flag=True, help="Every user that keyleash made.")
@node_option
@yes_option
@json_option
@pass_settings
def remove(
    settings: Settings,
    identities: Sequence[str],
    everything: bool,
    nodes: Sequence[str],
    yes: bool,
) -> None:
    """Delete the users of IDENTITY…, which closes their connections.

    Tokens, limits, audit streams and the guard remain: a client that logs in as another user and
    has a token may still call it.
    """
    if bool(identities) == everything:
        raise UsageError("specify identities or `--all`", help="see `keyleash fence remove --help`")
    servers = [FenceNode(name, client) for name, client in named_clients(settings, nodes)]
    records = read_records(settings.client, settings.keyspace)
    for name in identities:
        require_fenced(records, name)
    named = list(dict.fromkeys(identities)) or sorted(records)
    if named:
        print_note(f"this disconnects the agents of: {', '.join(named)}")
        if not require_consent("delete these users?", yes):
            raise OperationError("declined", "nothing was deleted")
    with settings.changing("check `keyleash fence plan`"):
        deleted = remove_fences(servers, settings.keyspace, records, named, actor=settings.actor)
    if settings.json:
        print_json({"removed": [{"server": server, "identity": name} for server, name in deleted]})
    elif deleted:
        for server, name in deleted:
            click.echo(f"deleted `{name}` from {server}")
    else:
        click.echo("no user to delete")


@click.command(epilog=example("keyleash fence rotate agent-runner"))
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
@click.option("--finish", is_flag=True, help="End the rotation: drop the older password.")
@click.option(
    "--hashes",
    metavar="FILE",
    type=FILE,
    help="Read the hashes of the new passwords: lines `identity sha256`, `-` for standard input.",
)
@node_option
@json_option
@pass_settings
def rotate(
    settings: Settings,
    identities: Sequence[str],
    finish: bool,
    hashes: str | None,
    nodes: Sequence[str],
) -> None:
    """Add a second password to users, all of them by default, and print it once.

    Both are valid until --finish. Open connections remain.
    """
    if finish and hashes is not None:
        raise UsageError("`--finish` takes no hashes", help="rotate first, then finish")
    servers = [FenceNode(name, client) for name, client in named_clients(settings, nodes)]
    records = read_records(settings.client, settings.keyspace)
    named = list(dict.fromkeys(identities)) or sorted(records)
    if not named:
        raise NotFencedError(
            "no identity has an ACL user", help="create them with `keyleash fence apply --mint`"
        )
    if finish:
        with settings.changing("check `keyleash fence plan`"):
            dropped = drop_old_passwords(
                servers, settings.keyspace, records, named, actor=settings.actor
            )
        _print_finished(settings, dropped)
        return
    given = read_hashes(hashes, named)
    generated = [] if hashes is not None else [generate_password(name) for name in named]
    try:
        with settings.changing("check `keyleash fence plan`"):
            add_passwords(
                servers,
                settings.keyspace,
                records,
                given or {item.identity: item.sha256 for item in generated},
                actor=settings.actor,
            )
    except (ForeignUserError, NotFencedError, RotationUnfinishedError):
        raise
    except Exception:
        # Some servers may have them already, and they are stored nowhere else.
        print_passwords(generated)
        raise
    _print_added(settings, generated, len(given) or len(generated))


def _print_added(settings: Settings, generated: Sequence[GeneratedPassword], count: int) -> None:

    if settings.json:
        print_json({"passwords": passwords_as_json(generated), "added": count})
        return
    print_passwords(generated)
    print_note(
        f"{counted(count, 'password')} added; the older one of each stays valid until"
        " `keyleash fence rotate --finish`"
    )


def _print_finished(settings: Settings, dropped: Sequence[str]) -> None:
    if settings.json:
        print_json({"finished": list(dropped)})
    elif dropped:
        click.echo(f"dropped the older password of: {', '.join(dropped)}")
    else:
        click.echo("no user had an older password")


@click.group(cls=Group, epilog=example("keyleash fence apply --mint"))
def fence() -> None:
    """Give each identity an ACL user that may do no more than its policy allows.

    Without one, a policy limits only agents that use the keyleash client. docs/how-to/fence.md
    lists what a fence stops.
    """


for command in (plan, apply, rotate, remove):
    fence.add_command(command)
