"""Render steps, notes and new passwords of fences as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from keyleash.cli.render.table import Column, print_table
from keyleash.cli.terminal import print_note
from keyleash.fence.acl_steps import AclStep, AclStepKind, Fences
from keyleash.fence.servers import FencedUser
from keyleash.store.fences import GeneratedPassword

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
    columns = [Column("user", fold=True), Column("what"), Column("why", fold=True)]
    rows = [[step.identity, WORDS[step.kind], "; ".join(step.reasons)] for step in steps]
    if _are_several(steps):
        columns.insert(0, Column("server", fold=True))
        for row, step in zip(rows, steps, strict=True):
            row.insert(0, step.server)
    print_table(columns, rows)


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
