"""Render steps, notes and new passwords as text and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from keyleash.cli.fence_state import DesiredState
from keyleash.cli.render.table import Column, print_table
from keyleash.cli.terminal import print_note
from keyleash.fence import AclStep, AclStepKind, GeneratedPassword

WORDS = {
    AclStepKind.CREATED: "new",
    AclStepKind.CHANGED: "change",
    AclStepKind.KEPT: "unchanged",
    AclStepKind.REMOVED: "remove",
    AclStepKind.HELD: "left out",
    AclStepKind.FOREIGN: "not ours",
}


def print_steps(steps: Sequence[AclStep]) -> None:
    """Print the action on each user; with the server if there are several."""
    servers = {step.node.name for step in steps}
    columns = [Column("user", fold=True), Column("what"), Column("why", fold=True)]
    rows = [[step.identity, WORDS[step.kind], "; ".join(step.reasons)] for step in steps]
    if len(servers) > 1:
        columns.insert(0, Column("server", fold=True))
        for row, step in zip(rows, steps, strict=True):
            row.insert(0, step.node.name)
    print_table(columns, rows)


def say_steps(steps: Sequence[AclStep]) -> None:
    """Print the actions on users that change."""
    width = max(len(step.identity) for step in steps)
    are_several = len({step.node.name for step in steps}) > 1
    for step in steps:
        if step.kind is not AclStepKind.KEPT:
            why = "; ".join(step.reasons)
            where = f"{step.node.name}: " if are_several else ""
            print_note(f"{step.identity:<{width}}  {WORDS[step.kind]:<8}  {where}{why}")


def say_notes(desired: DesiredState) -> None:
    """Print each caveat once, with all identities that it applies to."""
    whom: dict[tuple[str, str], list[str]] = {}
    for item in desired.wanted:
        for note in item.fence.notes:
            whom.setdefault((note.message, note.what), []).append(item.fence.identity)
    alike: dict[tuple[str, str], list[str]] = {}
    for (message, what), names in whom.items():
        alike.setdefault((message, ", ".join(names)), []).append(what)
    for (message, names_), whats in alike.items():
        print_note(f"note: {', '.join(whats)}: {message} ({names_})")


def say_off(desired: DesiredState, steps: Sequence[AclStep]) -> None:
    """Print the users that cannot log in because they have no password."""
    made = {
        step.identity
        for step in steps
        if step.kind in (AclStepKind.CREATED, AclStepKind.CHANGED, AclStepKind.KEPT)
    }
    off = [
        item.fence.identity
        for item in desired.wanted
        if item.fence.identity in made and not item.record.passwords
    ]
    if off:
        print_note(f"note: off without a password: {', '.join(off)}; see `--mint` and `--hashes`")


def say_opened(users: Sequence[tuple[str, str]]) -> None:
    """Print the servers that reject digests in rules, and the consequence."""
    for server, name in users:
        print_note(
            f"note: {server} rejects digests in rules, so `{name}` may call every script that is"
            " loaded there, with its own rights"
        )


def say_unsaved(servers: Sequence[str]) -> None:
    """Print the servers that lose their users at a restart."""
    for server in servers:
        print_note(
            f"note: {server} has no ACL file, so its users are lost at a restart; configure one,"
            " run CONFIG REWRITE there, or run `keyleash fence apply` after each start"
        )


def print_passwords(generated: Sequence[GeneratedPassword]) -> None:
    """Print new passwords."""
    for item in generated:
        click.echo(f"{item.identity} {item.password}")


def passwords_as_json(generated: Sequence[GeneratedPassword]) -> list[dict[str, str]]:
    """Return new passwords for JSON."""
    return [{"identity": item.identity, "password": item.password} for item in generated]


def step_as_json(step: AclStep) -> dict[str, Any]:
    """Return a step for JSON."""
    return {
        "server": step.node.name,
        "identity": step.identity,
        "what": step.kind.value,
        "why": list(step.reasons),
        "digests": not step.is_without_digests,
    }


def notes_as_json(desired: DesiredState) -> list[dict[str, str]]:
    """Return the notes of all identities for JSON."""
    return [
        {
            "identity": item.fence.identity,
            "code": note.code,
            "what": note.what,
            "message": note.message,
        }
        for item in desired.wanted
        for note in item.fence.notes
    ]
