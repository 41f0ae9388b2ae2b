"""The lists `only` and `except`: names of commands, of containers and of categories."""

from __future__ import annotations

from keyleash.commands import CommandSpec, CommandTable
from keyleash.policy.lists import check_distinct
from keyleash.policy.node import Node
from keyleash.policy.problems import Problems, did_you_mean, listing, quote


class CommandNames:
    """
    Reads names of commands.

    Args:
        known: Every command that keyleash knows; any other name is a problem. None takes
            every name.
        server: The commands of the server that the policy is for, if it is known.
        problems: Receives what is wrong.
        warnings: Receives what is right but has no effect on that server.
    """

    def __init__(
        self,
        known: CommandTable | None,
        server: CommandTable | None,
        problems: Problems,
        warnings: Problems,
    ) -> None:
        self._known = known
        self._server = server
        self._problems = problems
        self._warnings = warnings

    def read(self, node: Node) -> tuple[str, ...]:
        """Names in upper case and categories in lower case, as the model wants them."""
        names = []
        for entry in node.entries:
            words = " ".join(entry.source.split())
            is_category = words.startswith("@")
            name = words.lower() if is_category else words.upper()
            names.append(name)
            if self._known is None:
                continue
            if is_category:
                self._check_category(name, entry, self._known)
            else:
                self._check_command(name, entry, self._known)
        check_distinct(zip(names, node.entries, strict=True), self._problems)
        return tuple(dict.fromkeys(names))

    def _check_category(self, name: str, entry: Node, table: CommandTable) -> None:
        known = table.categories
        if name not in known:
            self._problems.add(
                "unknown-category",
                f"unknown command category {quote(entry.source)}",
                entry.span,
                did_you_mean(name, sorted(known), f"the categories are {listing(sorted(known))}"),
            )
        elif self._server is not None and name not in self._server.categories:
            self._warn("absent-category", f"command of the category {quote(name)}", entry)

    def _check_command(self, name: str, entry: Node, table: CommandTable) -> None:
        meant = _rows(name, table)
        if not meant:
            self._problems.add(
                "unknown-command",
                f"unknown command {quote(entry.source)}",
                entry.span,
                did_you_mean(
                    name,
                    table.commands,
                    "write a command's name, such as `GET`, or a category, such as `@hash`",
                ),
            )
        elif all(spec.refused is not None for spec in meant):
            self._problems.add(
                "refused-command",
                f"{quote(entry.source)} is refused whatever a grant says: {meant[0].refused}",
                entry.span,
                "remove it",
            )
        elif self._server is not None and not _rows(name, self._server):
            self._warn("absent-command", quote(name), entry)

    def _warn(self, code: str, what: str, entry: Node) -> None:
        self._warnings.add(
            code,
            f"the server has no {what}",
            entry.span,
            "the rule has no effect for it there; remove it, or load on a server that has it",
        )


def _rows(name: str, table: CommandTable) -> list[CommandSpec]:
    """The rows that a name stands for: a container's sub-commands, and what has that very name."""
    # A container's own row is always refused and says no more than that, so it comes last.
    subs = (
        [spec for spec in table if spec.name.startswith(f"{name} ")]
        if name in table.containers
        else []
    )
    row = table.get(name)
    return subs if row is None else [*subs, row]
