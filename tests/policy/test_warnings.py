"""Warnings of rules without effect: missing commands and masked keys."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from keyleash.commands import CommandTable
from keyleash.errors import PolicyError
from keyleash.policy import Policy, parse_policy

DOCUMENT = """\
version: 1
identities:
  b:
    kind: machine
    grants:
      - {{allow: [read], keys: ["a:*"], only: {only}, except: {except_}}}
  a:
    kind: machine
    grants: [{{allow: [read], keys: ["a:*"], only: [hget]}}]
"""


def without(commands: CommandTable, *names: str) -> CommandTable:
    """Return the table of a server without these commands."""
    kept = {name: spec for name, spec in commands.commands.items() if name not in names}
    return CommandTable(("valkey 8.1.1",), kept)


def parse_for(
    server: CommandTable | None, commands: CommandTable, only: str = "[GET]", except_: str = "[]"
) -> Policy:
    text = DOCUMENT.format(only=only, except_=except_)
    return parse_policy(text, file="p.yaml", commands=commands, server=server)


def warnings_of(policy: Policy) -> Sequence[str]:
    return [f"{warning.span} {warning.code}: {warning.message}" for warning in policy.warnings]


def test_command_that_the_server_lacks_is_a_warning_with_its_place(commands: CommandTable) -> None:
    """The policy is valid, but the rule has no effect on that server."""
    policy = parse_for(without(commands, "HGET"), commands)

    assert [str(warning) for warning in policy.warnings] == [
        "p.yaml:9:52: the server has no `HGET`\n"
        "  help: the rule has no effect for it there; remove it, or load on a server that has it"
    ]
    assert policy.warnings[0].code == "absent-command"


def test_warnings_come_in_file_order(commands: CommandTable) -> None:
    """The order of fields and identities in the file is preserved."""
    text = """\
version: 1
identities:
  b: {kind: machine, grants: [{except: [HGET], only: [GET], allow: [read], keys: ["a:*"]}]}
  a: {kind: machine, grants: [{allow: [read], keys: ["a:*"], except: ["@hash", GET]}]}
"""
    server = without(commands, "GET", "HGET")
    policy = parse_policy(text, file="p.yaml", commands=commands, server=server)

    assert warnings_of(policy) == [
        "p.yaml:3:41 absent-command: the server has no `HGET`",
        "p.yaml:3:55 absent-command: the server has no `GET`",
        "p.yaml:4:71 absent-category: the server has no command of the category `@hash`",
        "p.yaml:4:80 absent-command: the server has no `GET`",
    ]


def test_category_with_one_command_of_the_server_is_not_a_warning(commands: CommandTable) -> None:
    """A category includes all of its commands that the server has."""
    policy = parse_for(without(commands, "SET"), commands, except_='["@write", "@string"]')

    assert policy.warnings == ()


@pytest.mark.parametrize(
    ("lacking", "warned"),
    [
        ((), False),
        (("XINFO HELP", "XINFO STREAM"), False),
        (("XINFO",), False),
        (("XINFO", "XINFO HELP", "XINFO STREAM"), True),
    ],
)
def test_container_without_any_command_of_the_server_is_a_warning(
    lacking: tuple[str, ...], warned: bool, commands: CommandTable
) -> None:
    """Servers may list a container, its sub-commands, or both."""
    policy = parse_for(without(commands, *lacking), commands, except_="[XINFO]")

    assert bool(policy.warnings) is warned


def test_sub_command_that_the_server_lacks_is_a_warning(commands: CommandTable) -> None:
    """Later servers add sub-commands to existing containers."""
    policy = parse_for(without(commands, "XINFO STREAM"), commands, only="[xinfo  stream]")

    assert warnings_of(policy) == ["p.yaml:6:47 absent-command: the server has no `XINFO STREAM`"]


def test_parse_without_a_server_has_no_warnings(commands: CommandTable) -> None:
    """A file can be checked without a server."""
    assert parse_for(None, commands).warnings == ()


def test_server_with_every_command_has_no_warnings(commands: CommandTable) -> None:
    """Order and label of the table do not matter."""
    assert parse_for(without(commands), commands, except_='["@hash", XINFO]').warnings == ()


def test_parse_without_commands_allows_every_name() -> None:
    """An active policy was checked when it was loaded, perhaps on a server with modules."""
    text = DOCUMENT.format(only="[JSON.GET, flushall]", except_='["@search"]')
    policy = parse_policy(text, file="p.yaml", commands=None)

    assert policy.identities[0].grants[0].only == ("JSON.GET", "FLUSHALL")


def test_unknown_name_is_a_problem_whatever_the_server_has(commands: CommandTable) -> None:
    """A name that no server has is an error, not a warning."""
    with pytest.raises(PolicyError) as caught:
        parse_for(without(commands, "HGET", "FLUSHALL"), commands, only='[HGTE, "@x", FLUSHALL]')

    codes = [problem.code for problem in caught.value.problems]
    assert codes == ["unknown-command", "unknown-category", "ungrantable-command"]


def test_warnings_are_not_part_of_a_policy(commands: CommandTable) -> None:
    """Policies are equal if their identities are, whatever the warnings."""
    warned = parse_for(without(commands, "HGET"), commands)

    assert warned.warnings
    assert warned == parse_for(commands, commands)


MASKED = """\
version: 1
defaults: {{audit: {{before_images: {{max_bytes: 1kb}}}}}}
identities:
  a:
    kind: machine
    grants:
      - {{allow: [read], keys: ["open:*"]}}
      - {{allow: [write], keys: ["s:{{x}}:k", "s:*"]{first}}}
      - {{allow: [write], keys: ["t:*"]{second}}}
    audit: {{{audit}}}
"""
IMAGES = ", before_images: {max_bytes: 1kb}"
OWN = IMAGES.removeprefix(", ")


@pytest.mark.parametrize(
    ("first", "second", "audit", "places"),
    [
        (IMAGES, "", 'mask_keys: ["s:*"]', ["p.yaml:8:52"]),
        (IMAGES, IMAGES, 'mask_keys: ["s:*", "t:*"]', ["p.yaml:8:52", "p.yaml:9:41"]),
        (IMAGES, "", 'mask_keys: ["*"]', ["p.yaml:8:52"]),
        ("", "", f'{OWN}, mask_keys: ["s:*", "t:*"]', ["p.yaml:10:13"]),
        ("", ", before_images: off", f'mask_keys: ["s:*"], {OWN}', ["p.yaml:10:33"]),
        (IMAGES, "", f'{OWN}, mask_keys: ["*"]', ["p.yaml:8:52", "p.yaml:10:13"]),
        # A key is left of which there are images.
        (IMAGES, "", 'mask_keys: ["s:{x}:k", "s:a*", "t:*"]', []),
        ("", "", f'{OWN}, mask_keys: ["s:*"]', []),
        # No images are requested here, or by the defaults only, which apply to others too.
        (", before_images: off", "", 'mask_keys: ["*"]', []),
        ("", "", 'mask_keys: ["*"]', []),
        ("", "", 'mask_keys: ["*"], before_images: off', []),
    ],
)
def test_before_images_of_masked_keys_alone_are_a_warning(
    commands: CommandTable, first: str, second: str, audit: str, places: Sequence[str]
) -> None:
    """Masked keys have no before-images, so their changes cannot be undone."""
    text = MASKED.format(first=first, second=second, audit=audit)
    policy = parse_policy(text, file="p.yaml", commands=commands)

    assert [str(warning.span) for warning in policy.warnings] == places
    assert {warning.code for warning in policy.warnings} <= {"masked-images"}


def test_warning_of_masked_images_has_help(commands: CommandTable) -> None:
    """The help names both ways to resolve the conflict."""
    text = MASKED.format(first=IMAGES, second="", audit='mask_keys: ["s:*"]')
    policy = parse_policy(text, file="p.yaml", commands=commands)

    assert [str(warning) for warning in policy.warnings] == [
        "p.yaml:8:52: `before_images` has no effect: every key of the grant is masked\n"
        "  help: remove it, or narrow `mask_keys`; changes of masked keys cannot be undone"
    ]
