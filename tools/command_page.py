"""Write docs/reference/commands.md from the command table; `make docs` runs this.

python -m tools.command_page docs/reference/commands.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from keyleash.commands.facts import COUNTS_SUBSCRIBERS
from keyleash.commands.spec import (
    CommandSpec,
    CommandTable,
    KeyRange,
    KeySearch,
    Needs,
    NumberedKeys,
    OptionKey,
    StreamKeys,
    Waits,
)
from keyleash.commands.table import load_table
from support.command_table import command_rows

INTRODUCTION = """\
<!-- Made by `make docs` from the command table; do not edit. -->
# Commands

The keys, operation classes and costs of all commands of {servers},
as the servers declare them.
`keyleash load` reads the commands of its server, [including
modules](policy.md#servers-and-modules).

**{granted} commands can be granted:** {links}.
**{refused} are [always denied](#denied).**

- **keys**: the arguments that are keys, counted from 1 after the command's name, or after its
  container such as `XGROUP`. A caller [declares](wire.md#keys) them in this order.
- **needs**: the [operation classes](policy.md#operation-classes) that a grant must allow on each
  key; *any* is any grant on the key. Before a slash: the first key; after it: the others.
- **cost**: time complexity. *weight*: the call's [work](policy.md#work-of-a-call) is estimated
  before it runs, with this weight per element.
- Commands that need write, delete, publish or subscribe are audited, others are not; exceptions are
  marked.
- *polled*: a blocking command that returns at once; keyleash's clients
  [repeat it](wire.md#blocking-commands) until its timeout.
"""

DENIED_INTRODUCTION = """\
## Denied

Guards deny these commands with `COMMAND_REFUSED`, whatever the policy. So they do commands that all
grants of an identity exclude by `only:` or `except:`. The
[Python client](client.md#guarded-connections) answers some of them itself: WATCH and transactions,
KEYS, INFO, DBSIZE, the part of CLIENT that is about its own connection, and
[approved scripts](scripts.md).
"""

VECTOR_SETS_NOTE = """
The server declares that each of them reads and writes its key, so all need both classes.
"""

SECTIONS: Mapping[str, str] = MappingProxyType(
    {
        "@string": "Strings",
        "@bitmap": "Bitmaps",
        "@hyperloglog": "HyperLogLogs",
        "@hash": "Hashes",
        "@list": "Lists",
        "@set": "Sets",
        "@sortedset": "Sorted sets",
        "@geo": "Geo",
        "@stream": "Streams",
    }
)
"""Headings by ACL category; a command of several categories is in none."""

VECTOR_SETS, ANY_TYPE, WITHOUT_KEYS = "Vector sets", "Keys of any type", "Without keys"

REMARKS: Mapping[str, str] = MappingProxyType(
    {
        "BITFIELD": "denied on integers wider than 53 bits",
        "BITFIELD_RO": "denied on integers wider than 53 bits",
        "PUBLISH": "argument 1 is the channel",
        "SPUBLISH": "argument 1 is the channel",
        **dict.fromkeys(
            ("SUBSCRIBE", "SSUBSCRIBE"),
            "argument 1 is the channel; [only checked](wire.md#publish-and-subscribe)",
        ),
        "PSUBSCRIBE": "argument 1 is a pattern, which must lie within a granted one;"
        " [only checked](wire.md#publish-and-subscribe)",
        **dict.fromkeys(COUNTS_SUBSCRIBERS, "all arguments are channels"),
        **dict.fromkeys(("SORT", "SORT_RO"), "patterns within read grants"),
        "SCAN": "its MATCH must lie within a grant; replies are [filtered](wire.md#scan)",
    }
)
"""Remarks that are not derived from the table."""


def render(table: CommandTable) -> str:
    """Return the page in GitHub's Markdown."""
    granted = [spec for spec in table if spec.refused is None]
    by_section: dict[str, list[CommandSpec]] = {
        name: [] for name in (*SECTIONS.values(), VECTOR_SETS, ANY_TYPE, WITHOUT_KEYS)
    }
    for spec in sorted(granted, key=lambda spec: spec.name):
        by_section[section_of(spec)].append(spec)
    by_section = {name: specs for name, specs in by_section.items() if specs}
    links = ", ".join(f"[{name}](#{_anchor(name)})" for name in by_section)
    parts = [
        INTRODUCTION.format(
            servers=_listed(table.servers),
            granted=len(granted),
            refused=len(table.commands) - len(granted),
            links=links,
        )
    ]
    parts += (_section(name, specs, table) for name, specs in by_section.items())
    parts.append(DENIED_INTRODUCTION)
    parts += _denied(table)
    return "\n".join(parts) + "\n"


def section_of(spec: CommandSpec) -> str:
    """Return the heading of a command that can be granted."""
    if not spec.keys:
        return WITHOUT_KEYS
    if "module" in spec.flags:
        return VECTOR_SETS
    found = [title for category, title in SECTIONS.items() if category in spec.categories]
    return found[0] if len(found) == 1 else ANY_TYPE


def _section(title: str, specs: Sequence[CommandSpec], table: CommandTable) -> str:
    lines = [f"## {title}", VECTOR_SETS_NOTE if title == VECTOR_SETS else ""]
    lines += ("| command | keys | needs | cost | |", "|---|---|---|---|---|")
    for spec in specs:
        remarks = "; ".join(remarks_of(spec, table))
        cells = (
            f"`{spec.name}`",
            places_of(spec),
            needs_of(spec),
            command_rows()[spec.name].cost,
            remarks,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def places_of(spec: CommandSpec) -> str:
    """Return the positions of a command's keys in words."""
    places = [_place(search) for search in spec.keys]
    return (", " if all(map(str.isdecimal, places)) else ", then ").join(places) or "none"


def _place(search: KeySearch) -> str:
    match search:
        case KeyRange(first=first, last=last) if first == last:
            return str(first)
        case KeyRange(first=first, last=last, step=step) if last == first + step:
            return f"{first}, {last}"
        case KeyRange(first=first, last=last, step=step):
            end = {-1: "last", -2: "last but one"}.get(last, str(last))
            return f"{first}, {first + step} …" if step > 1 else f"{first} … {end}"
        case NumberedKeys(count_at=count_at, first=first, step=step):
            start = f"{first}, {first + step} …" if step > 1 else f"{first} …"
            return f"{start}, as many as {count_at} says"
        case OptionKey(words=words):
            return f"after {' or '.join(words)}"
        case StreamKeys():
            return "after STREAMS, the first half"


def needs_of(spec: CommandSpec) -> str:
    """Return the classes that the keys of a command need: the first key, and the others."""
    if not spec.keys:
        return _classes(spec.needs) if spec.needs else "nothing"
    return " / ".join(dict.fromkeys(_classes(search.needs) for search in spec.keys))


def remarks_of(spec: CommandSpec, table: CommandTable) -> Iterator[str]:
    """Yield the remarks on a command that can be granted."""
    if spec.variant is not None:
        when = "with GET only" if spec.variant.option is None else f"with {spec.variant.option}"
        yield f"{when}: {_classes(spec.variant.needs)}"
    if spec.named_only:
        yield "only if `only:` names it"
    if spec.refused_if:
        yield f"denied with {' or '.join(spec.refused_if)}"
    if spec.name in REMARKS:
        yield REMARKS[spec.name]
    for search in spec.keys:
        if isinstance(search, StreamKeys):
            known = ", ".join(word for word, _ in search.options)
            yield f"denied with options other than {known}"
    if spec.work is not None:
        yield f"weight {spec.work.weight:.4g}"
    if spec.waits is not None:
        yield "polled with BLOCK" if spec.waits is Waits.BLOCK else "polled"
    if any(isinstance(search, OptionKey) for search in spec.keys):
        yield "audited if it stores"
    elif spec.mutates and not {"write", "delete", "publish", "subscribe"} & set(spec.needs):
        yield "audited"
    elif not spec.mutates and {"write", "delete", "subscribe"} & set(spec.needs):
        yield "not audited"
    absent = [label for label in table.servers if label not in spec.servers]
    if absent:
        few = len(absent) < len(spec.servers)
        yield f"not {_listed(absent)}" if few else f"{_listed(spec.servers)} only"


def _denied(table: CommandTable) -> Iterator[str]:
    """Yield a line per reason, the most frequent first."""
    by_reason: dict[str, list[str]] = {}
    for spec in table:
        if spec.refused is not None:
            by_reason.setdefault(spec.refused, []).append(spec.name)
    for reason, names in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"- **{reason[0].upper()}{reason[1:]}**: {', '.join(_grouped(names, table))}."


def _grouped(names: Sequence[str], table: CommandTable) -> Iterator[str]:
    """Yield the names in order; a complete container replaces its sub-commands."""
    whole = {
        container
        for container in table.containers.intersection(names)
        if all(name in names for name in table.commands if name.startswith(f"{container} "))
    }
    for name in sorted(names):
        container = name.partition(" ")[0]
        if name in whole:
            yield f"`{name}` with all its sub-commands"
        elif container not in whole:
            yield f"`{name}`"


def _classes(needs: Needs) -> str:
    return ", ".join(needs) or "any"


def _listed(labels: Sequence[str]) -> str:
    """Return names of servers: `redis 8.0.2` is Redis 8.0."""
    parts = (label.partition(" ") for label in labels)
    names = [f"{name.capitalize()} {version.rpartition('.')[0]}" for name, _, version in parts]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def main(arguments: Sequence[str]) -> int:
    """Write the page to the named file."""
    if len(arguments) != 1:
        print("usage: python -m tools.command_page FILE", file=sys.stderr)
        return 64
    Path(arguments[0]).write_text(render(load_table()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
