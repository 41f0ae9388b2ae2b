"""Commands that have commands."""

from __future__ import annotations

import click

SENTENCE = 1000
"""More characters than any has."""


class Group(click.Group):
    """A group whose help tells of each command in a whole sentence; click cuts it off."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list, wrapped."""
        rows = [
            (name, command.get_short_help_str(SENTENCE))
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
