"""The pages of the documentation site that are generated from the code."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import click
from tools.error_messages import error_codes
from tools.error_summaries import SUMMARIES
from tools.site_pages import API, command_file, commands, error_file, generated_pages

import keyleash
from keyleash.errors import ReplyCode

SOURCE = Path(keyleash.__file__).parent
pages = functools.cache(generated_pages)  # takes seconds
NO_REMEDY = {
    "bad-policy": "each problem of the policy has its own help",
    "bad-tests": "each problem of the file has its own help",
    "declined": "the operator did not confirm",
    "server-error": "the reply is any error of the server",
}


def test_page_of_every_command_names_its_options() -> None:
    """A page has all options that `--help` shows."""
    for name, command in commands().items():
        shown = command.get_params(click.Context(command))
        options = [
            item.opts[0] for item in shown if isinstance(item, click.Option) and not item.hidden
        ]

        assert [option for option in options if option not in pages()[command_file(name)]] == []


def test_every_parameter_has_an_entry_of_its_own() -> None:
    """The site takes a list of names for one unknown parameter, which ends a strict build."""
    joint = re.compile(r"^ {8,}[a-z_]+(, [a-z_]+)+: (?!.*:$)", re.M)
    text = "\n".join(
        docstring
        for folder in ("api", "client")
        for file in (SOURCE / folder).glob("a*io*.py")
        for docstring in re.findall(r"^ +Args:\n((?: {8}.*\n)+)", file.read_text("utf-8"), re.M)
    )
    assert joint.findall("        token, wait: Both.\n")
    assert [line for line in text.splitlines() if joint.match(line)] == []


def test_every_denial_and_every_code_named_in_docstrings_has_a_page() -> None:
    """The search of the source finds all codes."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py"))
    named = set(re.findall(r"(?:Operation|Archive)Error \(([a-z-]+)\):", text))

    assert len(named) > 20
    assert {error_file(code) for code in named | set(ReplyCode)} <= set(pages())


def test_page_of_every_code_has_cause_and_remedy() -> None:
    """A code without any help needs a reason."""
    texts = {code: pages()[error_file(code)] for code in error_codes()}

    assert [code for code, text in texts.items() if "## Cause" not in text] == []
    assert {code for code, text in texts.items() if "emed" not in text} == set(NO_REMEDY)


def test_messages_of_an_error_are_those_of_the_source() -> None:
    """Texts of variables, helpers and constants are found, and values become placeholders."""
    causes = error_codes()["activation-conflict"].causes

    assert causes["another policy was activated while this one was loaded"] == [
        "check `keyleash status`, then load again"
    ]
    assert error_codes()["unsayable-pattern"].exit_codes == {65}
    assert "try again in RETRY_AFTER" in error_codes()["RATE_LIMITED"].causes["`LIMIT` is exceeded"]


def test_every_code_without_a_class_of_its_own_has_a_summary() -> None:
    """The list of errors describes the code, not one of its messages."""
    described = {code for code, error in error_codes().items() if not error.has_own_class}

    assert described == set(SUMMARIES)


def test_api_reference_has_every_public_name() -> None:
    """No name of `keyleash.__all__` is missing."""
    text = "\n".join(page for name, page in pages().items() if name.startswith(API))
    names = set(keyleash.__all__) - {"asyncio"}

    assert {name for name in names if not re.search(rf"(?m)\.{name}$", text)} == set()
