"""`keyleash fence`: manage the ACL users of agents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from keyleash.cli.failures import UNWRITTEN
from keyleash.cli.nodes import node_option, note_unlisted_replicas
from keyleash.cli.options import (
    FILE,
    IDENTITY,
    Group,
    all_of,
    example,
    require_consent,
    with_settings,
    yes_option,
)
from keyleash.cli.render.table import columns, print_table
from keyleash.cli.settings import Settings
from keyleash.cli.target import show_target
from keyleash.cli.terminal import print_json, print_note, read_input, read_policy, write_output
from keyleash.errors import OperationError, UsageError
from keyleash.fence.acl_steps import AclStep, AclStepKind, FencePlan, Fences
from keyleash.fence.servers import FencedUser
from keyleash.store.fences import GeneratedPassword
from keyleash.text import counted, printable

F = TypeVar("F", bound=Callable[..., Any])


def hashes_option(help: str) -> Callable[[F], F]:
    """Add the option `--hashes FILE`."""
    help = f"{help}: lines `identity sha256`, `-` for standard input."
    return click.option("--hashes", metavar="FILE", type=FILE, help=help)


def passwords_option(help: str) -> Callable[[F], F]:
    """Add the option `--passwords FILE`."""
    help = f"{help} to a new FILE of mode 600, before users change."
    return click.option("--passwords", "target", metavar="FILE", type=FILE, help=help)


fence_options = all_of(
    click.argument("file", required=False, type=FILE),
    node_option,
    click.option(
        "--wide",
        metavar="NAME",
        multiple=True,
        help="Fence NAME although its patterns may match control keys; repeatable.",
    ),
    hashes_option("Password hashes for users without one"),
)
"""The parameters of `_plan`."""


def _plan(settings: Settings, *, file: str | None, hashes: str | None, **options: Any) -> FencePlan:
    """Return the plan of `fence plan` and `fence apply`; nothing is changed."""
    policy = None if file is None else read_policy(file)
    return settings.operator.fence.plan(policy=policy, hashes=_read_hashes(hashes) or "", **options)


def _read_hashes(file: str | None) -> str | None:
    return None if file is None else read_input(file).decode("utf-8", "replace")


@contextmanager
def _changing(
    settings: Settings, file: str | None = None
) -> Iterator[Callable[[Sequence[GeneratedPassword]], None]]:
    """Wrap a change of users; yield what prints new passwords or writes them to *file*."""

    def deliver(passwords: Sequence[GeneratedPassword]) -> None:
        if file is not None and passwords:
            write_output(Path(file), password_lines(passwords).encode(), 0o600, is_new=True)
            print_note(f"{counted(len(passwords), 'password')} written to `{printable(file)}`")
        elif settings.json and passwords:
            raise UsageError(
                "`--json` prints no passwords; no user was changed",
                help="add `--passwords FILE`, which is written before users change",
            )
        else:
            try:
                click.echo(password_lines(passwords), nl=False)
            except OSError as error:
                reason = f"{UNWRITTEN}: {(error.strerror or '').lower()}"
                raise OperationError("not-printed", f"{reason}; nothing was changed") from error

    with settings.changing("check `keyleash fence plan`"):
        yield deliver


@click.command(epilog=example("keyleash fence plan --output acl >> users.acl"))
@fence_options
@click.option(
    "--output",
    type=click.Choice(["acl", "redis-cli"]),
    help="Print the users instead: as lines of an ACL file, or for redis-cli's standard input.",
)
@with_settings
def plan(settings: Settings, /, output: str | None, **options: Any) -> int:
    """Show what `fence apply` would do, and why; nothing is changed.

    FILE must be the active policy, which is also the default. Exits with 0 if every user is as
    desired, otherwise with 1.
    """
    found = _plan(settings, **options)
    if output is not None:
        click.echo(found.as_text(output), nl=False)
        for name in found.left_out:
            print_note(f"note: `{name}` is left out; `keyleash fence plan` shows why")
        note_caveats(found)
        return 0
    if settings.json:
        print_json(found)
        return int(found.changes)
    print_steps(found.steps)
    note_caveats(found)
    note_users_off(found)
    note_opened(found.without_digests)
    if not found.changes:
        print_note("nothing to change")
    return int(found.changes)


@click.command(epilog=example("keyleash fence apply --passwords passwords.txt"))
@fence_options
@click.option(
    "--mint",
    "generate",
    is_flag=True,
    help="Generate a password for users without one and print it once: identity, blank, password.",
)
@passwords_option("As --mint, but write the passwords")
@yes_option
@with_settings
def apply(
    settings: Settings, /, generate: bool, target: str | None, yes: bool, **options: Any
) -> None:
    """Create an ACL user for each identity of the active policy, with the same name.

    Changes only users that keyleash made; deletes those of identities that left the policy, which
    closes their connections. Verifies the users on each server. FILE, if given, must be the active
    policy.
    """
    show_target(settings, yes=yes)
    planned = _plan(settings, generate=generate or target is not None, **options)
    if planned.changes:
        note_changes(planned.steps)
        note_caveats(planned)
        note_users_off(planned)
        require_consent("change these users?", yes)
    with _changing(settings, target) as deliver:
        outcome = settings.operator.fence.apply(planned, announce=deliver)
    if settings.json:
        print_json(replace(outcome, passwords=()))
        return
    note_opened(outcome.without_digests)
    if outcome.changed:
        note_unsaved(outcome.unsaved)
        print_note("done, and verified")
    else:
        note_users_off(outcome)
        print_note("nothing changed; verified")
    note_unlisted_replicas(settings.operator.server().replicas, len(options["nodes"]))


@click.command(epilog=example("keyleash fence remove agent-runner"))
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
@click.option("--all", "everything", is_flag=True, help="Every user that keyleash made.")
@node_option
@yes_option
@with_settings
def remove(
    settings: Settings, /, identities: Sequence[str], everything: bool, yes: bool, **nodes: Any
) -> None:
    """Delete the users of IDENTITY…, which closes their connections.

    Tokens, limits, audit streams and the guard remain: a client that logs in as another user and
    has a token may still call it.
    """
    if bool(identities) == everything:
        raise UsageError("specify identities or `--all`", help="see `keyleash fence remove --help`")
    show_target(settings, yes=yes)
    named = settings.operator.fence.identities(*identities)
    if named:
        print_note(f"this disconnects the agents of: {', '.join(named)}")
        require_consent("delete these users?", yes, "nothing was deleted")
    with _changing(settings):
        deleted = settings.operator.fence.remove(*named, **nodes)
    if settings.json:
        print_json({"removed": deleted})
        return
    for item in deleted:
        click.echo(f"deleted `{item.identity}` from {item.server}")
    if not deleted:
        click.echo("no user to delete")


@click.command(epilog=example("keyleash fence rotate agent-runner"))
@click.argument("identities", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
@click.option("--finish", is_flag=True, help="End the rotation: drop the older password.")
@hashes_option("Read the hashes of the new passwords")
@passwords_option("Write the passwords")
@node_option
@with_settings
def rotate(
    settings: Settings,
    identities: Sequence[str],
    finish: bool,
    hashes: str | None,
    target: str | None,
    nodes: Sequence[str],
) -> None:
    """Add a second password to users, all of them by default, and print it once.

    Both are valid until --finish. Open connections remain.
    """
    if finish and (hashes or target) is not None:
        raise UsageError("`--finish` adds no passwords", help="rotate first, then finish")
    if finish:
        _finish(settings, identities, nodes)
        return
    with _changing(settings, target) as deliver:
        done = settings.operator.fence.rotate(
            *identities, nodes=nodes, hashes=_read_hashes(hashes), announce=deliver
        )
    if settings.json:
        print_json(replace(done, passwords=()))
        return
    print_note(
        f"{counted(len(done.identities), 'password')} added; the older one of each stays valid"
        " until `keyleash fence rotate --finish`"
    )


def _finish(settings: Settings, identities: Sequence[str], nodes: Sequence[str]) -> None:
    with _changing(settings):
        dropped = settings.operator.fence.finish_rotation(*identities, nodes=nodes)
    if settings.json:
        print_json({"finished": dropped})
    elif dropped:
        click.echo(f"dropped the older password of: {', '.join(dropped)}")
    else:
        click.echo("no user had an older password")


WORDS = {
    AclStepKind.CREATED: "new",
    AclStepKind.CHANGED: "change",
    AclStepKind.UNCHANGED: "unchanged",
    AclStepKind.REMOVED: "remove",
    AclStepKind.HELD: "left out",
    AclStepKind.FOREIGN: "not ours",
}


def print_steps(steps: Sequence[AclStep]) -> None:
    """Print the action on each user; with the server if there are several."""
    start = 0 if _are_several(steps) else 1
    rows = (
        [step.server, step.identity, WORDS[step.kind], "; ".join(step.reasons)][start:]
        for step in steps
    )
    names = ("server", "user", "what", "why")[start:]
    print_table(columns(*names, fold={"server", "user", "why"}), rows)


def note_changes(steps: Sequence[AclStep]) -> None:
    """Print the actions on users that change, as notes."""
    width = max(len(step.identity) for step in steps)
    for step in steps:
        if step.kind is not AclStepKind.UNCHANGED:
            where = f"{step.server}: " if _are_several(steps) else ""
            why = "; ".join(step.reasons)
            print_note(f"{step.identity:<{width}}  {WORDS[step.kind]:<8}  {where}{why}")


def _are_several(steps: Sequence[AclStep]) -> bool:
    return len({step.server for step in steps}) > 1


def note_caveats(fences: Fences) -> None:
    """Print each caveat once, with all identities that it applies to."""
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for note in fences.notes:
        names[note["message"], note["what"]].append(note["identity"])
    subjects: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (message, what), identities in names.items():
        subjects[message, ", ".join(identities)].append(what)
    for (message, listed), whats in subjects.items():
        print_note(f"note: {', '.join(whats)}: {message} ({listed})")


def note_users_off(fences: Fences) -> None:
    """Print the users that cannot log in because they have no password."""
    if fences.off:
        off = ", ".join(fences.off)
        print_note(
            f"note: disabled until they have a password: {off}; see `--passwords` and `--hashes`"
        )


def note_opened(users: Sequence[FencedUser]) -> None:
    """Print the users of servers that reject digests, and the consequence."""
    for user in users:
        print_note(
            f"note: {user.server} rejects digests in rules, so `{user.identity}` may call every"
            " script that is loaded there, with its own rights"
        )


def note_unsaved(servers: Sequence[str]) -> None:
    """Print the servers that lose their users at a restart."""
    for server in servers:
        print_note(
            f"note: {server} has no ACL file, so its users are lost at a restart; configure one,"
            " run CONFIG REWRITE there, or run `keyleash fence apply` after each start"
        )


def password_lines(generated: Sequence[GeneratedPassword]) -> str:
    """Return lines of an identity, a blank and its password."""
    return "".join(f"{item.identity} {item.password}\n" for item in generated)


@click.group(cls=Group, epilog=example("keyleash fence apply --passwords passwords.txt"))
def fence() -> None:
    """Give each identity an ACL user that may do no more than its policy allows.

    Without one, a policy limits only agents that use the keyleash client. docs/how-to/fence.md
    lists what a fence stops.
    """


for command in (plan, apply, rotate, remove):
    fence.add_command(command)
