"""`keyleash fence`: manage the ACL users of agents."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keyleash.cli.nodes import node_option, note_unlisted_replicas, other_nodes
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
    note_caveats,
    note_changes,
    note_opened,
    note_unsaved,
    note_users_off,
    notes_as_json,
    print_passwords,
    print_steps,
    step_as_json,
)
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.target import show_target
from keyleash.cli.terminal import print_json, print_note, read_input, read_text
from keyleash.errors import OperationError, UsageError
from keyleash.fence import (
    AclStepKind,
    DesiredUser,
    FencedServers,
    FenceNode,
    ForeignUserError,
    GeneratedPassword,
    NotFencedError,
    RotationUnfinishedError,
    Tier,
    add_passwords,
    apply_fences,
    desired_users,
    drop_old_passwords,
    generate_password,
    plan_fences,
    remove_fences,
    with_first_passwords,
)
from keyleash.fence.desired import as_acl_file, as_redis_cli
from keyleash.fence.plan import CHANGES
from keyleash.fence.record import SHA256, tier_of
from keyleash.fence.rotate import require_fenced
from keyleash.operator import prepare_policy
from keyleash.policy.problems import which_identity
from keyleash.store.identities import require_active
from keyleash.text import counted, json_object

if TYPE_CHECKING:
    from keyleash.fence import AclStep

F = TypeVar("F", bound=Callable[..., Any])


def hashes_option(help: str) -> Callable[[F], F]:
    """Add the option `--hashes FILE`."""
    return click.option(
        "--hashes",
        metavar="FILE",
        type=FILE,
        help=f"{help}: lines `identity sha256`, `-` for standard input.",
    )


def fence_options(function: F) -> F:
    """Add the parameters of `_read_desired` to a command."""
    for option in (
        hashes_option("Password hashes for users without one"),
        click.option(
            "--wide",
            metavar="NAME",
            multiple=True,
            help="Fence NAME although its patterns may match control keys; repeatable.",
        ),
        node_option,
        click.option(
            "--tier",
            type=click.Choice([item.value for item in Tier]),
            help="Fail unless the server has this tier.",
        ),
        click.argument("file", required=False, type=FILE),
    ):
        function = option(function)
    return function


def _read_servers(settings: Settings, urls: Sequence[str]) -> FencedServers:
    first = FenceNode(settings.shown_url, settings.client)
    return FencedServers.read(settings.store, [first, *other_nodes(settings, urls)])


def _read_desired(
    settings: Settings,
    *,
    file: str | None,
    tier: str | None,
    nodes: Sequence[str],
    wide: Collection[str],
    hashes: str | None,
    generate: bool = False,
) -> tuple[FencedServers, list[DesiredUser], list[GeneratedPassword]]:
    """Return servers, desired users and the generated passwords; nothing is changed."""
    present = tier_of(settings.store.keys)
    if tier not in (None, present):
        state = "sealed" if present is Tier.SEALED else "not sealed"
        raise UsageError(
            f"the server is {state}, so its users cannot have the tier `{tier}`",
            help="omit `--tier`, or seal the server first",
        )
    servers = _read_servers(settings, nodes)
    name, text = "<active policy>", require_active(settings.store).document
    if file is not None:
        name, text = read_text(file)
    guards = prepare_policy(
        settings.store, text, file=name, allow_eviction=True, allow_unvalidated_restore=True
    ).guards
    given = read_hashes(hashes, [guard.identity for guard in guards])
    users = desired_users(servers, guards)
    return servers, *with_first_passwords(servers, users, given, wide=wide, generate=generate)


HELP = "write a line for each: the identity, a blank, and the password's SHA-256 in hex"


def read_hashes(file: str | None, identities: Collection[str]) -> dict[str, str]:
    """
    Read a file of lines `identity sha256`; `-` is standard input, None is no file.

    Raises:
        UsageError: A line is malformed. It is not repeated: it may contain a password.
        OperationError (unknown-identity): A line names none of *identities*.
        OperationError (file): The file is missing, or cannot be read.
    """
    if file is None:
        return {}
    data = read_input(file).decode("utf-8", "replace")
    found: dict[str, str] = {}
    for number, line in enumerate(data.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not SHA256.fullmatch(words[1]):
            raise UsageError(f"line {number} of the hashes is malformed", help=HELP)
        name, sha256 = words
        if name not in identities:
            raise OperationError(
                "unknown-identity",
                f"line {number} of the hashes names an unknown identity",
                help=which_identity(name, identities, "known are"),
            )
        if name in found:
            raise UsageError(f"line {number} of the hashes repeats `{name}`", help=HELP)
        found[name] = sha256
    return found


@contextmanager
def _changing(settings: Settings, generated: Sequence[GeneratedPassword] = ()) -> Iterator[None]:
    """Wrap a change of users; if it may have been made in part, print the new passwords."""
    try:
        with settings.changing("check `keyleash fence plan`"):
            yield
    except (ForeignUserError, NotFencedError, RotationUnfinishedError):
        raise
    except Exception:
        # Some servers may have them already, and they are stored nowhere else.
        print_passwords(generated)
        raise


def _needs_work(steps: Sequence[AclStep]) -> bool:
    return any(step.kind in CHANGES or step.kind is AclStepKind.FOREIGN for step in steps)


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
    servers, users, _ = _read_desired(settings, **options)
    steps = plan_fences(servers, users, wide=options["wide"])
    if output is not None:
        _print_users(users, steps, output)
        return 0
    due = _needs_work(steps)
    if settings.json:
        print_json(
            {"changes": due, "users": list(map(step_as_json, steps)), "notes": notes_as_json(users)}
        )
        return int(due)
    print_steps(steps)
    note_caveats(users)
    note_users_off(users, steps)
    note_opened([(step.node.name, step.identity) for step in steps if step.is_without_digests])
    if not due:
        print_note("nothing to change")
    return int(due)


def _print_users(users: Sequence[DesiredUser], steps: Sequence[AclStep], output: str) -> None:
    left_out = {
        step.identity for step in steps if step.kind in (AclStepKind.HELD, AclStepKind.FOREIGN)
    }
    fenced = [item for item in users if item.identity not in left_out]
    click.echo(as_acl_file(fenced) if output == "acl" else as_redis_cli(fenced), nl=False)
    for name in sorted(left_out):
        print_note(f"note: `{name}` is left out; `keyleash fence plan` shows why")
    note_caveats(users)


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
def apply(settings: Settings, /, yes: bool, **options: Any) -> None:
    """Create an ACL user for each identity of the active policy, with the same name.

    Changes only users that keyleash made; deletes those of identities that left the policy, which
    closes their connections. Verifies the users on each server. FILE, if given, must be the active
    policy.
    """
    show_target(settings, yes=yes)
    servers, users, generated = _read_desired(settings, **options)
    wide = options["wide"]
    steps = plan_fences(servers, users, wide=wide)
    if _needs_work(steps):
        note_changes(steps)
        note_caveats(users)
        if not require_consent("change these users?", yes):
            raise OperationError("declined", "nothing was changed")
    with _changing(settings, generated):
        outcome = apply_fences(servers, users, wide=wide)
    if settings.json:
        print_json(
            {
                "changed": outcome.changed,
                "users": list(map(step_as_json, outcome.steps)),
                "passwords": _passwords_as_json(generated),
                "notes": notes_as_json(users),
                "without_digests": _users_as_json(outcome.without_digests),
                "unsaved": list(outcome.unsaved),
            }
        )
        return
    print_passwords(generated)
    note_users_off(users, outcome.steps)
    note_opened(outcome.without_digests)
    if outcome.changed:
        note_unsaved(outcome.unsaved)
    print_note("done, and verified" if outcome.changed else "nothing changed; verified")
    note_unlisted_replicas(settings.operator.server().replicas, len(servers.nodes) - 1)


def _users_as_json(users: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"server": server, "identity": name} for server, name in users]


def _passwords_as_json(generated: Sequence[GeneratedPassword]) -> list[dict[str, str]]:
    return [json_object(item, "identity", "password") for item in generated]


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
    show_target(settings, yes=yes)
    servers = _read_servers(settings, nodes)
    for name in identities:
        require_fenced(servers.records, name)
    named = list(dict.fromkeys(identities)) or sorted(servers.records)
    if named:
        print_note(f"this disconnects the agents of: {', '.join(named)}")
        if not require_consent("delete these users?", yes):
            raise OperationError("declined", "nothing was deleted")
    with _changing(settings):
        deleted = remove_fences(servers, named)
    if settings.json:
        print_json({"removed": _users_as_json(deleted)})
        return
    for server, name in deleted:
        click.echo(f"deleted `{name}` from {server}")
    if not deleted:
        click.echo("no user to delete")


@click.command(epilog=example("keyleash fence rotate agent-runner"))
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
@click.option("--finish", is_flag=True, help="End the rotation: drop the older password.")
@hashes_option("Read the hashes of the new passwords")
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
    servers = _read_servers(settings, nodes)
    named = list(dict.fromkeys(identities)) or sorted(servers.records)
    if not named:
        raise NotFencedError(
            "no identity has an ACL user", help="create them with `keyleash fence apply --mint`"
        )
    if finish:
        _finish(settings, servers, named)
        return
    given = read_hashes(hashes, named)
    generated = [] if hashes is not None else [generate_password(name) for name in named]
    given |= {item.identity: item.sha256 for item in generated}
    with _changing(settings, generated):
        add_passwords(servers, given)
    if settings.json:
        print_json({"passwords": _passwords_as_json(generated), "added": len(given)})
        return
    print_passwords(generated)
    print_note(
        f"{counted(len(given), 'password')} added; the older one of each stays valid until"
        " `keyleash fence rotate --finish`"
    )


def _finish(settings: Settings, servers: FencedServers, named: Sequence[str]) -> None:
    with _changing(settings):
        dropped = drop_old_passwords(servers, named)
    if settings.json:
        print_json({"finished": dropped})
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
