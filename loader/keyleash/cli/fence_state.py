"""The desired users of a fence, and the options that determine them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.cli.options import FILE
from keyleash.cli.settings import Settings, connection_pool, has_password, shown_url
from keyleash.cli.terminal import print_note, read_input, read_text
from keyleash.errors import (
    OperationError,
    UsageError,
)
from keyleash.fence import (
    AclStep,
    DesiredUser,
    FenceNode,
    FenceRecord,
    GeneratedPassword,
    Tier,
    desired_users,
    generate_password,
    plan_node,
    read_records,
    read_server_facts,
    with_passwords,
)
from keyleash.fence.plan import CHANGES, AclStepKind
from keyleash.fence.record import SHA256
from keyleash.operator import prepare_policy
from keyleash.policy.problems import which_identity
from keyleash.store.identities import require_active, server_time_ms
from keyleash.store.records import Client, database_of
from keyleash.store.server_check import CheckedRedis
from keyleash.text import counted

F = TypeVar("F", bound=Callable[..., Any])

CREDENTIALS = ("username", "password")


def node_option(function: F) -> F:
    """Add the option `--node`, which lists further servers."""
    return click.option(
        "--node",
        "nodes",
        metavar="URL",
        multiple=True,
        envvar="KEYLEASH_NODES",
        show_envvar=True,
        help="A further server, such as a replica, which has ACL users of its own; repeatable, and"
        " separated by blanks in the variable. User and password default to those of --url.",
    )(function)


def other_clients(settings: Settings, urls: Sequence[str]) -> list[Client]:
    """Return clients of the servers besides that of `--url`; see `named_clients` for the errors."""
    return [client for _, client in named_clients(settings, urls)[1:]] if urls else []


def named_clients(settings: Settings, urls: Sequence[str]) -> list[tuple[str, Client]]:
    """
    Return name and client of each server, the one of `--url` first.

    Raises:
        UsageError: A URL on the command line has a password.
        OperationError (bad-url): One names no server.
        OperationError (server-unreachable): One does not answer; nothing was changed.
    """
    given = click.get_current_context().get_parameter_source("nodes")
    if given is ParameterSource.COMMANDLINE and any(map(has_password, urls)):
        raise UsageError(
            "a password on the command line can be read by every user of this machine",
            help="set KEYLEASH_NODES to the URLs instead",
        )
    # Errors of the first are reported as for every command.
    settings.client.ping()
    found = [(settings.shown_url, settings.client)]
    for url in urls:
        found.append((shown_url(url), _client(settings, url)))
        _require_answer(*found[-1])
    return found


def say_unlisted_replicas(client: Client, named: int) -> None:
    """Warn if a server has more replicas than *named*: their users are not changed."""
    with contextlib.suppress(NoPermissionError):
        replicas = int(client.info("replication").get("connected_slaves", 0))
        if replicas > named:
            print_note(
                f"note: {counted(replicas, 'replica')} connected, {named} given by --node: users"
                " of others are unchanged, and after a failover their agents are denied;"
                " run `keyleash fence apply` with a --node for each"
            )


def _client(settings: Settings, url: str) -> Client:
    pool = connection_pool(url, settings.timeout_s)
    options = pool.connection_kwargs
    if not any(options.get(name) for name in CREDENTIALS):
        ours = settings.client.connection_pool.connection_kwargs
        options.update({name: ours[name] for name in CREDENTIALS if name in ours})
    return CheckedRedis(connection_pool=pool)


def _require_answer(name: str, client: Client) -> None:
    try:
        client.ping()
    except (RedisConnectionError, RedisTimeoutError):
        raise OperationError(
            "server-unreachable",
            f"`{name}` does not answer; nothing was changed on any server",
            help="check --node or KEYLEASH_NODES, and that user and password are valid there",
        ) from None


TIERS = ("fenced", "sealed")


@dataclass(frozen=True)
class FenceOptions:
    """The options of `fence plan` and `fence apply`."""

    file: str | None
    tier: str | None
    nodes: Sequence[str]
    wide: Collection[str]
    hashes: str | None


def fence_options(function: F) -> F:
    """Add the arguments in `FenceOptions` to a command."""
    for option in (
        click.option(
            "--hashes",
            metavar="FILE",
            type=FILE,
            help="Password hashes for users without one: lines `identity sha256`, `-` for standard"
            " input.",
        ),
        click.option(
            "--wide",
            metavar="NAME",
            multiple=True,
            help="Fence NAME although its patterns may match control keys; repeatable.",
        ),
        node_option,
        click.option(
            "--tier",
            type=click.Choice(TIERS),
            help="Fail unless the server has this tier.",
        ),
        click.argument("file", required=False, type=FILE),
    ):
        function = option(function)
    return function


HELP = "write a line for each: the identity, a blank, and the password's SHA-256 in hex"


def read_hashes(file: str | None, identities: Collection[str]) -> dict[str, str]:
    """
    Read a file of lines `identity sha256`; `-` is standard input, None is no file.

    Raises:
        UsageError: A line is malformed. It is not repeated: it may contain a password.
        OperationError (unknown-identity): A line names none of *identities*.
        OperationError (file): The file is missing, or cannot be read.
    """
    if file is None:
        return {}
    data = read_input(file).decode("utf-8", "replace")
    found: dict[str, str] = {}
    for number, line in enumerate(data.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not SHA256.fullmatch(words[1]):
            raise UsageError(f"line {number} of the hashes is malformed", help=HELP)
        name, sha256 = words
        if name not in identities:
            raise OperationError(
                "unknown-identity",
                f"line {number} of the hashes names an unknown identity",
                help=which_identity(name, identities, "known are"),
            )
        if name in found:
            raise UsageError(f"line {number} of the hashes repeats `{name}`", help=HELP)
        found[name] = sha256
    return found


@dataclass(frozen=True)
class DesiredState:
    """
    The desired users, and the servers.

    Attributes:
        generated: New passwords for users without one, if requested.
    """

    nodes: list[FenceNode]
    wanted: list[DesiredUser]
    records: Mapping[str, FenceRecord]
    wide: Collection[str]
    generated: list[GeneratedPassword]

    def steps(self, settings: Settings) -> list[AclStep]:
        """Return the steps for every server."""
        return [
            step
            for node in self.nodes
            for step in plan_node(
                node,
                settings.keyspace,
                database_of(settings.client),
                self.wanted,
                self.records,
                wide=self.wide,
            )
        ]


def read_desired_state(
    settings: Settings, options: FenceOptions, *, generate: bool = False
) -> DesiredState:
    """
    Read policy, servers and records; nothing is changed.

    Raises:
        OperationError (no-policy): No policy is active.
        OperationError (not-active-policy): The file is not the active policy.
    """
    _require_tier(settings, options.tier)
    nodes = [FenceNode(name, client) for name, client in named_clients(settings, options.nodes)]
    active = require_active(settings.client, settings.keyspace)
    name, text = ("<active policy>", active.document)
    if options.file is not None:
        name, text = read_text(options.file)
    guards = prepare_policy(
        settings.client,
        text,
        file=name,
        keyspace=settings.keyspace,
        allow_eviction=True,
        allow_unvalidated_restore=True,
    ).guards
    names = [guard.identity for guard in guards]
    _require_known(options.wide, names)
    hashes = read_hashes(options.hashes, names)
    records = read_records(settings.client, settings.keyspace)
    facts = read_server_facts([node.client for node in nodes], settings.keyspace)
    wanted = desired_users(settings.client, settings.keyspace, guards, facts, records)
    _require_first(wanted, hashes)
    lacking = _without_password(wanted, hashes, options.wide, records) if generate else []
    generated = [generate_password(name) for name in lacking]
    hashes.update((item.identity, item.sha256) for item in generated)
    now_ms = server_time_ms(settings.client)
    return DesiredState(
        nodes, with_passwords(wanted, hashes, now_ms), records, options.wide, generated
    )


def needs_work(steps: Sequence[AclStep]) -> bool:
    """Return whether a user differs from the desired one."""
    return any(step.kind in CHANGES or step.kind is AclStepKind.FOREIGN for step in steps)


def _without_password(
    wanted: Sequence[DesiredUser],
    hashes: Mapping[str, str],
    wide: Collection[str],
    records: Mapping[str, FenceRecord],
) -> list[str]:
    return [
        name
        for item in wanted
        if not item.record.passwords
        and (name := item.fence.identity) not in hashes
        and (item.fence.blocker is None or name in wide or name in records)
    ]


def _require_first(wanted: Sequence[DesiredUser], hashes: dict[str, str]) -> None:
    """Check that hashes are for users without a password; drop those that are valid already."""
    for item in wanted:
        name = item.fence.identity
        sha256 = hashes.get(name)
        if sha256 is None or not item.record.passwords:
            continue
        if sha256 not in item.record.hashes:
            raise UsageError(
                f"`{name}` has a password already",
                help="add another with `keyleash fence rotate --hashes FILE`",
            )
        del hashes[name]


def _require_known(wide: Collection[str], names: Sequence[str]) -> None:
    for name in wide:
        if name not in names:
            raise OperationError(
                "unknown-identity",
                f"the policy has no identity `{name}`",
                help=which_identity(name, names),
            )


def _require_tier(settings: Settings, tier: str | None) -> None:
    is_ = Tier.SEALED if settings.keyspace.vault else Tier.FENCED
    if tier is not None and tier != is_:
        state = "sealed" if is_ is Tier.SEALED else "not sealed"
        raise UsageError(
            f"the server is {state}, so its users cannot have the tier `{tier}`",
            help="omit `--tier`, or seal the server first",
        )


def aclfile(wanted: Sequence[DesiredUser]) -> str:
    """Return lines for an ACL file."""
    return "".join(f"user {item.fence.identity} {' '.join(item.user.words)}\n" for item in wanted)


def redis_cli(wanted: Sequence[DesiredUser]) -> str:
    """Return lines for the standard input of redis-cli or valkey-cli."""
    return "".join(
        f"ACL SETUSER {item.fence.identity} {' '.join(map(_quoted, item.user.words))}\n"
        for item in wanted
    )


def _quoted(word: str) -> str:
    if not set(word) & {" ", "\\"}:
        return word
    return '"' + word.replace("\\", "\\\\") + '"'
