"""Write the generated pages of the documentation site as Markdown: commands, errors and API.

`tools.site_hook` adds them to the site. They are not stored, so there is nothing to keep current.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import posixpath
import re
from collections.abc import Iterable, Iterator
from functools import cache

import click
import redis
from tools.error_messages import OMITTED, ErrorCode, error_codes

import keyleash
from keyleash import errors
from keyleash.cli.program import COMMANDS, SECTIONS, main
from keyleash.errors import KeyleashError
from keyleash.results import Result

CLI = "reference/cli"
ERRORS = "reference/errors"
API = "reference/api"
INTRODUCTIONS: dict[str, list[str]] = {
    "errors": [
        "All are names of `keyleash`, such as `keyleash.LeashError`. See also the"
        " [error codes](../errors/index.md)."
    ],
    "results": [
        "What calls of `keyleash.Operator` and `keyleash.Policy` return. `to_dict()` is what"
        " `--json` prints. Names in `_ms` and `_us` are server time, Unix milliseconds and"
        " microseconds; names in `_at` the same as a `datetime`."
    ],
    "testing": ["The pytest plugin `keyleash.addons.testing.plugin` provides the two fixtures."],
}
GROUPS = {
    "Policy": "Operator.policies",
    "Token": "Operator.tokens",
    "Limit": "Operator.limits",
    "Audit": "Operator.audit",
    "Undo": "Operator.undo",
}
"""The attribute of `Operator` for each class of operations."""
FIXTURES = ("leash_server", "fake_leash")


@cache
def commands() -> dict[str, click.Command]:
    """Return all commands and subcommands by path, such as `token issue`, in the order of help."""

    def below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        if isinstance(command, click.Group):
            for child in command.list_commands(click.Context(command)):
                yield from below(f"{name} {child}", command.commands[child])

    context = click.Context(main)
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None  # noqa: S101 - COMMANDS has the names that it knows
        found |= below(name, command)
    return found


def command_file(name: str) -> str:
    """Return the page of a command."""
    return f"{CLI}/{name.replace(' ', '-')}.md"


def command_page(name: str) -> str:
    """Return the page of the command *name*, from the texts of its `--help`."""
    command = commands()[name]
    context = _context(name)
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"# keyleash {name}", *_prose(command.help or ""), "## Usage"]
    parts.append(_block(f"keyleash {name} {usage}"))
    if example := (command.epilog or "").replace("\b", "").strip():
        parts += ["## Example", _block(re.sub(r"^example: *", "", example))]
    if isinstance(command, click.Group):
        rows = [
            (
                f"[`{name} {child}`]({name.replace(' ', '-')}-{child}.md)",
                item.get_short_help_str(200),
            )
            for child, item in command.commands.items()
        ]
        parts += ["## Commands", _table(("command", ""), rows)]
    records = [item.get_help_record(context) for item in command.get_params(context)]
    options = [(_code(names), _text(help_)) for names, help_ in filter(None, records) if help_]
    parts += ["## Options", _table(("option", ""), options)]
    return _page(parts, CLI)


def _context(name: str) -> click.Context:
    """Return the context of a command, below those of its groups."""
    context = click.Context(main, info_name="keyleash", max_content_width=10_000)
    words = name.split()
    for count, word in enumerate(words, 1):
        command = commands()[" ".join(words[:count])]
        context = click.Context(command, info_name=word, parent=context, terminal_width=10_000)
    return context


def _prose(help_: str) -> list[str]:
    """Return the paragraphs of a help text; click keeps the lines of one after a backspace."""
    paragraphs = inspect.cleandoc(help_).split("\f")[0].split("\n\n")
    return [
        _block(text.removeprefix("\b\n"))
        if text.startswith("\b")
        else _text(" ".join(text.split()))
        for text in paragraphs
    ]


def error_file(code: str) -> str:
    """Return the page of an error code."""
    return f"{ERRORS}/{code}.md"


def error_page(error: ErrorCode) -> str:
    """Return the page of an error code: its cause and its remedy."""
    parts = [f"# {error.code}"]
    parts.append(_described(error) if error.has_own_class else error.summary)
    causes = [text for text in error.causes if text not in {"", OMITTED}]
    remedies = list(dict.fromkeys(help_ for helps in error.causes.values() for help_ in helps))
    if error.is_denial:
        head = ("message", "help for the agent", "help for the operator")
        rows = [
            tuple(_text(text or "") for text in (item.text, item.help, item.operator))
            for item in error.messages
        ]
        parts += ["## Causes and remedies", _table(head, rows)]
    elif len(causes) <= 1 or not remedies:
        parts += ["## Cause", *(_sentence(text) for text in causes or [error.summary])]
        if remedies:
            parts += ["## Remedy", _list(map(_sentence, remedies))]
    else:
        texts: dict[str, list[str]] = {}
        for text, helps in error.causes.items():
            message = "others" if text == OMITTED else _text(text)
            texts.setdefault(_lines(map(_text, helps)), []).append(message)
        pairs = [(_lines(messages), help_) for help_, messages in texts.items()]
        parts += ["## Causes and remedies", _table(("message", "help"), pairs)]
    exits = ", ".join(f"`{number}`" for number in sorted(error.exit_codes))
    facts = [f"[Exit code](../cli/index.md#exit-codes) of the CLI: {exits}"]
    if error.cls is not None and error.cls in vars(errors).values():
        name = error.cls.__name__
        facts.append(f"Python class: [`keyleash.{name}`](../api/errors.md#keyleash.errors.{name})")
    if error.is_denial:
        facts.append("Reply of a guard: [wire contract](../wire.md#denials)")
    parts += ["## Reference", _list(facts)]
    return _page(parts, ERRORS)


def errors_page() -> str:
    """Return the page that lists all error codes."""
    groups: dict[str, list[tuple[str, str]]] = {"Denials": [], "Other errors": []}
    for error in error_codes().values():
        row = (f"[`{error.code}`]({error.code}.md)", _text(error.summary))
        groups["Denials" if error.is_denial else "Other errors"].append(row)
    introduction = (
        "Every error has a code. `keyleash --json` prints it as `error.code`; in Python it is the"
        " attribute `code` of a [`KeyleashError`](../api/errors.md)."
    )
    parts = ["# Errors", introduction]
    for title, rows in groups.items():
        parts += [f"## {title}", _table(("code", ""), rows)]
    return _page(parts, ERRORS)


def api_pages() -> dict[str, str]:
    """Return the pages of the API reference by file; mkdocstrings replaces the directives."""
    client = [name for name in keyleash.__all__ if name not in vars(errors) and name != "asyncio"]
    failures = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, KeyleashError)
    ]
    pages = {
        "client": ("Client", [f"keyleash.{name}" for name in client if "Operator" not in name]),
        "asyncio": ("Async client", _members("keyleash.asyncio", without="correlation")),
        "operator": ("Operator", _operator_members()),
        "results": ("Results", [f"{cls.__module__}.{cls.__name__}" for cls in results()]),
        "errors": (
            "Exceptions",
            [f"keyleash.errors.{name}" for name in (*failures, "ReplyCode", "Problem", "Span")],
        ),
        "testing": (
            "Testing",
            [
                *(f"keyleash.addons.testing.plugin.{name}" for name in FIXTURES),
                *("keyleash.testing", "keyleash.addons.testing.leash.BaseLeash"),
            ],
        ),
    }
    return {
        f"{API}/{name}.md": "\n\n".join(
            [f"# {title}", *INTRODUCTIONS.get(name, ()), *map(_directive, members)]
        )
        + "\n"
        for name, (title, members) in pages.items()
        if members
    }


def _operator_members() -> list[str]:
    """Return the classes of the API of operators, the groups of operations behind `Operator`."""
    groups = {
        f"{type(group).__module__}.{type(group).__name__}"
        for group in vars(keyleash.Operator(redis.Redis())).values()
        if type(group).__name__.endswith("Operations")
    }
    first, *others = _members("keyleash.api")
    return [first, *sorted(groups, key=lambda name: name.rpartition(".")[2]), *others]


def results() -> list[type[Result]]:
    """Return the classes of results by name, without those that others extend."""
    for module in pkgutil.walk_packages(keyleash.__path__, "keyleash."):
        if "__main__" not in module.name and ".cli" not in module.name:
            importlib.import_module(module.name)
    # A dataclass with slots is a second class of the same name.
    found: dict[str, type[Result]] = {}
    waiting = list(Result.__subclasses__())
    for cls in waiting:
        waiting += cls.__subclasses__()
        if not cls.__name__.startswith("_"):
            found[cls.__name__] = cls
    return [found[name] for name in sorted(found)]


def _members(module: str, without: str = "") -> list[str]:
    names: list[str] = importlib.import_module(module).__all__
    return [f"{module}.{name}" for name in names if name != without]


def _directive(name: str) -> str:
    """Return the directive of mkdocstrings for a public name."""
    if name == "keyleash.correlation":  # The package `keyleash.client` has a module of that name.
        path = "keyleash.client.correlation.correlation"
        return f"::: {path}\n    options:\n      heading: {name}\n      toc_label: correlation"
    if name == "keyleash.asyncio.Operator":
        return f"::: {name}\n    options: {{inherited_members: true}}"
    if name.startswith("keyleash.api.") and (name.count(".") == 2 or name.endswith("Operations")):
        public = name.replace("keyleash.api.", "keyleash.") if name.count(".") == 2 else ""
        heading = public or GROUPS[name.rpartition(".")[2].removesuffix("Operations")]
        label = heading.removeprefix("keyleash.")
        return (
            f"::: {name}\n    options:\n      heading: {heading}\n      toc_label: {label}\n"
            "      inherited_members: true"
        )
    if any(name.endswith(f".{cls.__name__}") for cls in results()):
        return f"::: {name}\n    options: {{show_root_full_path: false}}"
    if name.startswith("keyleash.errors."):  # Many, with long names; the page names the module.
        return f"::: {name}\n    options: {{show_root_full_path: false}}"
    return f"::: {name}"


def generated_pages() -> dict[str, str]:
    """Return all generated pages by file."""
    pages = {command_file(name): command_page(name) for name in commands()}
    pages |= {error_file(code): error_page(error) for code, error in error_codes().items()}
    return pages | {f"{ERRORS}/index.md": errors_page()} | api_pages()


def generated_navigation() -> dict[str, list[object]]:
    """Return the sections of the reference that consist of generated pages."""
    cli: list[object] = [f"{CLI}/index.md"]
    for title, members in SECTIONS.items():
        names = [name for name in commands() if name.split()[0] in members]
        cli.append({title: [{name: command_file(name)} for name in names]})
    errors: list[object] = [f"{ERRORS}/index.md"]
    for title, is_denial in (("Denials", True), ("Other errors", False)):
        found = [error.code for error in error_codes().values() if error.is_denial is is_denial]
        errors.append({title: [{code: error_file(code)} for code in found]})
    return {"CLI": cli, "Errors": errors, "Python API": list(api_pages())}


def _described(error: ErrorCode) -> str:
    """Return the docstring of the class up to its first section."""
    text = inspect.getdoc(error.cls) or ""
    return re.split(r"^\w+:$", text, maxsplit=1, flags=re.MULTILINE)[0].strip()


def _sentence(text: str) -> str:
    text = _text(text[:1].upper() + text[1:])
    return text if text[-1] in ".?" else f"{text}."


def _text(text: str) -> str:
    """Escape a text for Markdown, outside of its code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\*_\[\]<>|#])", r"\\\1", part)
        for part in parts
    ).replace("\n", " ")


def _code(text: str) -> str:
    return f"`{text}`"


def _block(text: str) -> str:
    return f"```text\n{inspect.cleandoc(text)}\n```"


def _list(items: Iterable[str]) -> str:
    lines = list(items)
    return "\n".join(f"- {line}" for line in lines) if len(lines) > 1 else lines[0]


def _lines(items: Iterable[str]) -> str:
    """Return a table cell with one or several texts, or none."""
    lines = list(dict.fromkeys(items))
    return "<br>".join(f"• {line}" for line in lines) if len(lines) > 1 else "".join(lines) or "–"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(parts: Iterable[str], folder: str) -> str:
    """Join the parts of a page, and link the pages and commands that they name."""
    text = "\n\n".join(parts) + "\n"

    def page_link(match: re.Match[str]) -> str:
        return f"[{match[0]}]({posixpath.relpath(match[1], folder)}{match[2] or ''})"

    def command_link(match: re.Match[str]) -> str:
        words = match[1].split()
        for count in range(len(words), 0, -1):
            name = " ".join(words[:count])
            if name in commands():
                return f"[{match[0]}]({posixpath.relpath(command_file(name), folder)})"
        return match[0]

    text = re.sub(r"docs/([\w/-]+\.md)(#[\w-]+)?", page_link, text)
    return re.sub(r"(?<!\[)`keyleash ([^`\n]+)`", command_link, text)
