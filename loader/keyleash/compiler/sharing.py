"""
How Lua sources become templates: read without what a server need not keep, and in parts.

A part is a partial that many guards have in common. It is put in by

    --% share "partials/find_rule.lua" of dispatch, rare, containers

and is a template of its own, which sees the values that are named there and no others. So
its text is a function of these, and is written once for all guards where they are equal;
a value that it needs and that was forgotten there is an error, and never another guard's text.
"""

from __future__ import annotations

from functools import lru_cache

from jinja2 import Environment, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from keyleash.compiler.quoting import Text

KEPT = 1024
"""So many texts of parts are remembered: what hundreds of quite different identities have."""


class Sharing(Extension):
    """The statement `share`, and the stripping of sources."""

    tags = {"share"}  # noqa: RUF012 - jinja2's own word

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Leave comments, blank lines and indentation out.

        The server keeps every byte of a script. Stripping is safe because no literal spans lines.
        """
        lines = map(str.strip, source.splitlines())
        return "".join(
            f"{line}\n"
            for line in lines
            if line and (line.startswith("--%") or not line.startswith("--"))
        )

    def parse(self, parser: Parser) -> nodes.Node:
        """Read `share TEMPLATE of NAME, NAME…`."""
        line = next(parser.stream).lineno
        template = parser.parse_primary()
        parser.stream.expect("name:of")
        values = []
        while True:
            name = parser.parse_assign_target(name_only=True).name
            values.append(nodes.Keyword(name, nodes.Name(name, "load")))
            if not parser.stream.skip_if("comma"):
                break
        text = self.call_method("_text", [template], values)
        return nodes.Output([text]).set_lineno(line)

    def _text(self, template: str, **values: object) -> Text:
        return _text(self.environment, template, **values)


@lru_cache(KEPT)
def _text(environment: Environment, template: str, **values: object) -> Text:
    return Text(environment.get_template(template).render(values))
