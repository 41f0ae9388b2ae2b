"""What `fence plan` and `fence apply` both begin with: the users as they are meant."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from keyleash.cli.documents import read_text
from keyleash.cli.errors import UsageError
from keyleash.cli.fence.hashes import read_hashes
from keyleash.cli.fence.nodes import named_clients
from keyleash.cli.fence.options import Asked
from keyleash.cli.settings import Settings
from keyleash.cli.standing import server_time_ms
from keyleash.errors import NoPolicyError, UnknownIdentityError
from keyleash.fence import (
    Minted,
    Node,
    Record,
    Step,
    Tier,
    Wanted,
    mint,
    plan_node,
    read_facts,
    read_records,
    wanted_users,
    with_passwords,
)
from keyleash.fence.plan import CHANGES, How
from keyleash.policy.problems import which_identity
from keyleash.protocol.active import database_of, read_active


@dataclass(frozen=True)
class Meant:
    """
    What is to be.

    Attributes:
        minted: New passwords of those who had none, if they were asked for.
    """

    nodes: list[Node]
    wanted: list[Wanted]
    records: Mapping[str, Record]
    wide: Collection[str]
    minted: list[Minted]

    def steps(self, settings: Settings) -> list[Step]:
        """What has to be done for it on every server."""
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


def read_meant(settings: Settings, asked: Asked, *, mints: bool = False) -> Meant:
    """
    Read policy, servers and records; nothing is changed.

    Raises:
        NoPolicyError: No policy is active.
        NotActivePolicyError: The file is not the active policy.
    """
    from keyleash.deploy import prepare_policy

    _require_tier(settings, asked.tier)
    nodes = [Node(name, client) for name, client in named_clients(settings, asked.nodes)]
    active = read_active(settings.client, settings.keyspace)
    if active is None:
        raise NoPolicyError("no policy is active", help="load one with `keyleash load FILE`")
    name, text = ("<active policy>", active.document)
    if asked.file is not None:
        name, text = read_text(asked.file)
    guards = prepare_policy(
        settings.client,
        text,
        file=name,
        keyspace=settings.keyspace,
        allow_eviction=True,
        allow_unvalidated_restore=True,
    ).guards
    names = [guard.identity for guard in guards]
    _require_known(asked.wide, names)
    hashes = read_hashes(asked.hashes, names)
    records = read_records(settings.client, settings.keyspace)
    facts = read_facts([node.client for node in nodes], settings.keyspace)
    wanted = wanted_users(settings.client, settings.keyspace, guards, facts, records)
    _require_first(wanted, hashes)
    lacking = _without_password(wanted, hashes, asked.wide, records) if mints else []
    minted = [mint(name) for name in lacking]
    hashes.update((one.identity, one.sha256) for one in minted)
    now_ms = server_time_ms(settings.client)
    return Meant(nodes, with_passwords(wanted, hashes, now_ms), records, asked.wide, minted)


def needs_work(steps: Sequence[Step]) -> bool:
    """Whether some user is not as it is meant."""
    return any(step.how in CHANGES or step.how is How.FOREIGN for step in steps)


def _without_password(
    wanted: Sequence[Wanted],
    hashes: Mapping[str, str],
    wide: Collection[str],
    records: Mapping[str, Record],
) -> list[str]:
    return [
        name
        for one in wanted
        if not one.record.passwords
        and (name := one.fence.identity) not in hashes
        and (one.fence.hindrance is None or name in wide or name in records)
    ]


def _require_first(wanted: Sequence[Wanted], hashes: dict[str, str]) -> None:
    """Insist that hashes are for those without a password; forget those that are valid already."""
    for one in wanted:
        name = one.fence.identity
        sha256 = hashes.get(name)
        if sha256 is None or not one.record.passwords:
            continue
        if sha256 not in one.record.hashes:
            raise UsageError(
                f"`{name}` has a password already",
                help="add another with `keyleash fence rotate --hashes FILE`",
            )
        del hashes[name]


def _require_known(wide: Collection[str], names: Sequence[str]) -> None:
    for name in wide:
        if name not in names:
            raise UnknownIdentityError(
                f"the policy has no identity `{name}`", help=which_identity(name, names)
            )


def _require_tier(settings: Settings, tier: str | None) -> None:
    is_ = Tier.SEALED if settings.keyspace.vault else Tier.FENCED
    if tier is not None and tier != is_:
        said = "sealed" if is_ is Tier.SEALED else "not sealed"
        raise UsageError(
            f"the server is {said}, so its users cannot be of the tier `{tier}`",
            help="leave `--tier` out, or seal the server first",
        )
