"""List tokens."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from redis import exceptions as redis_errors

from keyleash.errors import OperationError, UsageError
from keyleash.operations import operation
from keyleash.operations.types import IdentityName, Labels, Param, TokenId
from keyleash.operator.tokens.restrict import labels_json
from keyleash.policy.model import TokenRules
from keyleash.results import Instant, Result
from keyleash.store.identities import active_records, known_identities, require_known
from keyleash.store.restrictions import Restrictions, restrictions_of
from keyleash.store.store import Store, batches
from keyleash.store.token import TOKEN_START, TokenRecord, identity_of, token_digest, use_noted_us
from keyleash.store.token_entries import (
    delete_token_entries,
    read_child_entries,
    read_token_entries,
    read_token_records,
)
from keyleash.store.wire import reading_reply
from keyleash.text import json_object, without_tokens


class TokenState(StrEnum):
    """The states of a token."""

    LIVE = "live"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class TokenInfo(Result):
    """A token, without its secret; times are server time, Unix milliseconds.

    Attributes:
        state: Also expired if it was idle for longer than the active policy allows.
        expires_ms: When it expires, also if it was rotated.
        used_ms: When it was last used: exact to a minute, or to a second if the policy has an idle
            time; None if never.
        due_ms: When it is due for rotation; None if never, or if it was rotated.
        latest_ms: The latest time until which `renew_token` renews it; None if it does not.
        replaced_by: The id of the token that replaced it; empty if none.
        meta: Its labels.
        chain: The ids of its ancestors, from the issued token on, if a token made it; `by` is then
            its parent. If one of these is over, it is revoked.
        restrictions: What it may do of what its identity may do; None if all of that, or if its
            record is corrupt.
        read_ms: The server's clock when it was read.
        issued_at, expires_at, used_at, due_at, latest_at: The times as `datetime`.
    """

    id: str
    identity: str
    state: TokenState
    issued_ms: int
    expires_ms: int
    by: str
    note: str
    used_ms: int | None = None
    due_ms: int | None = None
    latest_ms: int | None = None
    replaced_by: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    chain: tuple[str, ...] = ()
    restrictions: Restrictions | None = None
    read_ms: int = field(default=0, compare=False)
    issued_at = Instant[datetime]()
    expires_at = Instant[datetime]()
    used_at = Instant["datetime | None"]()
    due_at = Instant["datetime | None"]()
    latest_at = Instant["datetime | None"]()

    @property
    def is_live(self) -> bool:
        """Return whether it was live when it was read."""
        return self.state is TokenState.LIVE

    @property
    def is_stale(self) -> bool:
        """Return whether it was overdue for rotation when it was read."""
        return self.is_due(self.read_ms)

    def is_due(self, now_ms: int) -> bool:
        """Return whether it is overdue for rotation."""
        return self.is_live and self.due_ms is not None and self.due_ms <= now_ms

    def to_dict(self) -> dict[str, Any]:
        """Return the token as `--json` prints it."""
        return {
            **json_object(self, "id", "identity", "state", "issued_ms", "expires_ms"),
            **json_object(self, "last_used_at=used_ms", "rotate_at=due_ms", "is_stale"),
            **json_object(self, "renewable_until=latest_ms"),
            "replaced_by": self.replaced_by or None,
            "by": self.by,
            "note": without_tokens(self.note),
            "meta": dict(self.meta),
            "chain": list(self.chain),
            "restrictions": self.restrictions and self.restrictions.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class TokenTree(Result):
    """A token and the trees of its children, the first one first."""

    token: TokenInfo
    children: tuple[TokenTree, ...] = ()

    def lines(self) -> Iterator[tuple[int, TokenInfo]]:
        """Yield each token of the tree with its depth below the first."""
        yield 0, self.token
        for child in self.children:
            yield from ((depth + 1, info) for depth, info in child.lines())

    def to_dict(self) -> dict[str, Any]:
        """Return the tree as `--json` prints it."""
        children = [child.to_dict() for child in self.children]
        return {**self.token.to_dict(), "children": children}


@operation("token tree")
def token_tree(store: Store, token_id: TokenId) -> TokenTree:
    """Return a token with all tokens that were delegated from it.

    Raises:
        OperationError (unknown-token-id): there is no such token.
        UsageError: *token_id* is a token.
    """
    root = require_token(store, token_id)
    by_chain: dict[tuple[str, ...], list[TokenInfo]] = {}
    for info in reversed(list_tokens(store, root.identity)):
        by_chain.setdefault(info.chain, []).append(info)

    def tree(info: TokenInfo) -> TokenTree:
        return TokenTree(info, tuple(map(tree, by_chain.get((*info.chain, info.id), ()))))

    return tree(root)


ListedLabels = Annotated[Labels, Param(help="Only tokens with this label. Repeatable.")]


@operation("token list")
def list_tokens(
    store: Store, identity: IdentityName | None = None, *, meta: ListedLabels | None = None
) -> list[TokenInfo]:
    """Return the tokens of an identity, or of all, without their secrets, newest first.

    Args:
        identity: The name of an identity; all of them if None.
        meta: The labels that the tokens have; any if None.

    A token is listed until a week after it expired. Details of those that expired before are
    deleted, if the user may write.

    Raises:
        OperationError (no-policy): no policy was ever loaded.
        OperationError (unknown-identity): there never was such an identity.
    """
    found = _tokens_of(store, require_known(store, identity))
    wanted = (meta or {}).items()
    return [info for info in found if wanted <= info.meta.items()]


def _tokens_of(store: Store, names: Sequence[str]) -> list[TokenInfo]:
    records = active_records(store, names)
    rules = {
        name: None
        if (record := records.get(name)) is None
        else TokenRules(
            ttl_s=record.ttl_s,
            max_ttl_s=record.max_ttl_s,
            rotate_after_s=record.rotate_after_s or None,
            idle_s=record.idle_s or None,
        )
        for name in names
    }
    found: list[TokenInfo] = []
    for name, infos, expired in read_tokens(store, rules, store.now_us()):
        found += infos
        if expired:
            # Read-only users and replicas cannot clean up.
            with suppress(redis_errors.ResponseError):
                delete_token_entries(store, name, expired)
    return sorted(found, key=lambda info: info.issued_ms, reverse=True)


def read_tokens(
    store: Store, rules: Mapping[str, TokenRules | None], now_us: int
) -> Iterator[tuple[str, list[TokenInfo], list[str]]]:
    """Yield identities with their tokens, and the ids of entries whose records have expired.

    Args:
        rules: The token rules of each identity to read; None if it is not in the active policy.

    Raises:
        OperationError (unreadable): An entry is corrupt.
    """
    for names in batches(rules):
        pairs = zip(names, read_token_entries(store, names), strict=True)
        issued = {name: parsed(name, raw) for name, raw in pairs}
        pairs = zip(names, read_child_entries(store, names), strict=True)
        children = {name: parsed(name, raw) for name, raw in pairs}
        entries = {
            name: {**children[name], **issued[name]}
            for name in names
            if children[name] or issued[name]
        }
        digests = {
            name: [item["digest"] for item in known.values()] for name, known in entries.items()
        }
        replies = read_token_records(store, digests)
        for (name, known), records in zip(entries.items(), replies, strict=True):
            with reading_reply("MGET"):
                found = {
                    id_: packed and TokenRecord.unpack(packed)
                    for id_, packed in zip(known, records, strict=True)
                }
            # Their own rights end a chain; an idle timeout counts each token alone.
            live = {
                entry["digest"]
                for id_, entry in known.items()
                if (record := found[id_])
                and not (record.revoked or record.is_rotated or record.expires_us <= now_us)
            }
            yield (
                name,
                [
                    _token_info(id_, name, known[id_], record, rules[name], now_us, live)
                    for id_, record in found.items()
                    if record
                ],
                [id_ for id_ in issued[name] if found[id_] is None],
            )


def require_token(store: Store, token_id: str) -> TokenInfo:
    """Return the token with an id.

    Raises:
        UsageError: *token_id* is a token.
        OperationError (unknown-token-id): No token has it.
    """
    require_token_id(token_id)
    for info in _tokens_of(store, known_identities(store)):
        if info.id == token_id:
            return info
    is_name = token_id in known_identities(store)
    raise OperationError(
        "unknown-token-id",
        f"no token has the id `{token_id}`" + (", the name of an identity" if is_name else ""),
        help=f"see its tokens and their ids: `keyleash token list {token_id}`"
        if is_name
        else "see `keyleash token list`",
    )


def require_token_id(token_id: str) -> None:
    """Raise UsageError if an id is or contains a token; the error does not contain it."""
    if TOKEN_START in token_id:
        raise UsageError("this is a token, not a token id", help="see `keyleash token list`")


@operation()
def id_of(store: Store, token: str) -> str:
    """Return the id of a token.

    Raises:
        OperationError (unknown-token-id): the server has no record of it.
    """
    [[packed]] = read_token_records(store, {identity_of(token): [token_digest(token)]})
    if packed is None:
        help = "it is a token of another server, or expired more than a week ago"
        raise OperationError("unknown-token-id", "the server has no such token", help=help)
    return TokenRecord.unpack(packed).id


def parsed(identity: str, recorded: Mapping[bytes, bytes]) -> dict[str, Mapping[str, Any]]:
    """Parse the entries of `Keyspace.tokens`, by token id."""
    known = {}
    for token_id, text in recorded.items():
        try:
            facts = json.loads(text)
            str.encode(facts["digest"])
            int(facts["issued_ms"])
        except (ValueError, LookupError, TypeError):
            raise OperationError(
                "unreadable",
                f"the entry of a token of `{identity}` is corrupt",
                help="find out what wrote to the control keys; `keyleash doctor` checks them",
            ) from None
        known[token_id.decode("utf-8", "backslashreplace")] = facts
    return known


def _token_info(
    token_id: str,
    identity: str,
    known: Mapping[str, Any],
    record: TokenRecord,
    rules: TokenRules | None,
    now_us: int,
    live: Collection[str],
) -> TokenInfo:
    restrictions = _restrictions(record)
    chain = restrictions.chain if restrictions else ()
    state = _state(record, rules.idle_s if rules else None, now_us)
    if state is TokenState.LIVE and not all(item.digest in live for item in chain):
        state = TokenState.REVOKED
    issued_ms, used_ms = int(known["issued_ms"]), record.used_us // 1000
    replaced_by = known.get("replaced_by", "")
    may_renew = rules and state is TokenState.LIVE and not (replaced_by or chain)
    rotate_after_s = rules.rotate_after_s if rules and not replaced_by else None
    return TokenInfo(
        id=token_id,
        identity=identity,
        state=state,
        issued_ms=issued_ms,
        expires_ms=record.expires_us // 1000,
        by=chain[-1].id if chain else known.get("by", ""),
        note=known.get("note", ""),
        # Until its first use, `used_us` of a new record lies before the issue.
        used_ms=used_ms if used_ms > issued_ms else None,
        due_ms=None if rotate_after_s is None else issued_ms + rotate_after_s * 1000,
        latest_ms=issued_ms + rules.max_ttl_s * 1000 if rules and may_renew else None,
        replaced_by=replaced_by,
        meta=labels_json(known.get("meta")),
        chain=tuple(item.id for item in chain),
        restrictions=restrictions,
        read_ms=now_us // 1000,
    )


def _restrictions(record: TokenRecord) -> Restrictions | None:
    try:
        return restrictions_of(record)
    except ValueError:
        return None


def _state(record: TokenRecord, idle_s: int | None, now_us: int) -> TokenState:
    """Return the state of a token as a guard determines it."""
    if record.revoked:
        return TokenState.REVOKED
    allowed_us = None if idle_s is None else idle_s * 1_000_000 + use_noted_us(idle_s)
    is_idle = allowed_us is not None and now_us - record.used_us > allowed_us
    return TokenState.EXPIRED if is_idle or record.expires_us <= now_us else TokenState.LIVE
