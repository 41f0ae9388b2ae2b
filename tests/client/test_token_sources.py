"""Tokens from callables, files and the environment, and their rotation without a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import keyleash
from client.alike import ONE_EITHER
from keyleash.operator.tokens.revoke import revoke
from keyleash.store.token import TokenRecord, token_digest
from support.leash import NAMES, Leash, grant

READER = {"grants": [grant("read", keys="t:*")]}
RUNNER = {"grants": [grant("read", "write", "delete", keys="t:*")]}


class Tokens:
    """A provider of tokens, one after the other, that counts how often it is asked."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]


def client_of(leash: Leash, source: Any, **options: Any) -> Any:
    return leash.client(source, **options)


@ONE_EITHER
def test_revoked_token_is_replaced_and_the_call_runs_once(one_leash: Leash) -> None:
    """The provider is asked only after the denial, which ran nothing."""
    first = one_leash.issue("one")
    source = Tokens(first.token, one_leash.issue("one").token)
    client = client_of(one_leash, source)
    client.incr("t:n")
    revoke(one_leash.store, token_id=first.id)

    assert client.incr("t:n") == 2
    assert client.incr("t:n") == 3
    assert source.asked == 2


@ONE_EITHER
def test_provider_without_a_new_token_is_asked_once_per_call(one_leash: Leash) -> None:
    """The denial of the repeated call is raised."""
    first = one_leash.issue("one")
    source = Tokens(first.token)
    client = client_of(one_leash, source)
    client.incr("t:n")
    revoke(one_leash.store, token_id=first.id)

    for asked in (2, 3):
        with pytest.raises(keyleash.TokenRevokedError):
            client.incr("t:n")
        assert source.asked == asked


@ONE_EITHER
def test_expired_token_is_replaced(one_leash: Leash) -> None:
    """Also if it was expired at the first call."""
    issued = one_leash.issue("one")
    name = NAMES.token("one", token_digest(issued.token))
    record = TokenRecord.unpack(one_leash.admin.get(name))
    past_us = record.expires_us - 86_400_000_000
    one_leash.put_token("one", issued.token, TokenRecord(record.id, past_us, record.used_us))
    client = client_of(one_leash, Tokens(issued.token, one_leash.issue("one").token))

    assert client.incr("t:n") == 1


@ONE_EITHER
@pytest.mark.parametrize("transaction", [True, False])
def test_pipeline_with_a_revoked_token_is_repeated_as_a_whole(
    one_leash: Leash, transaction: bool
) -> None:
    """A batch is denied as a whole, so no command ran before."""
    first = one_leash.issue("one")
    client = client_of(one_leash, Tokens(first.token, one_leash.issue("one").token))
    client.get("t:n")
    revoke(one_leash.store, token_id=first.id)

    with client.batch() if transaction else client.pipeline(transaction=False) as pipe:
        pipe.incr("t:n")
        pipe.incr("t:n")
        if not transaction:
            assert client_result(one_leash, pipe.execute()) == [1, 2]

    assert one_leash.admin.get("t:n") == b"2"


def client_result(leash: Any, result: Any) -> Any:
    return leash.runner.run(result) if asyncio.iscoroutine(result) else result


@ONE_EITHER
def test_new_policy_and_new_token_are_both_found_by_one_call(one_leash: Leash) -> None:
    """The guard is looked up again, and then the token."""
    first = one_leash.issue("one")
    client = client_of(one_leash, Tokens(first.token, one_leash.issue("one").token))
    client.incr("t:n")
    one_leash.load(one={**RUNNER, "rate": {"writes": "900/minute"}})
    revoke(one_leash.store, token_id=first.id)

    assert client.incr("t:n") == 2


def test_token_of_another_identity_is_an_error(one_leash: Leash) -> None:
    """A client acts as one identity; the error does not show the token."""
    one_leash.load(one=RUNNER, two=READER)
    first, other = one_leash.issue("one"), one_leash.issue("two").token
    client = client_of(one_leash, Tokens(first.token, other))
    client.incr("t:n")
    revoke(one_leash.store, token_id=first.id)

    with pytest.raises(keyleash.OperationError, match="one of `two`, not of `one`") as error:
        client.incr("t:n")
    assert error.value.code == "other-identity"
    assert other not in str(error.value)


def test_own_connection_keeps_the_provider(one_leash: Leash) -> None:
    """`client()` makes a client that rotates as well."""
    first = one_leash.issue("one")
    second = one_leash.issue("one").token
    client = client_of(one_leash, Tokens(first.token, second)).client()
    client.incr("t:n")
    revoke(one_leash.store, token_id=first.id)

    assert client.incr("t:n") == 2


def test_coroutine_function_is_awaited_by_the_async_client_alone(one_leash: Leash) -> None:
    """The sync client names the other one."""
    token = one_leash.issue("one").token

    async def provide() -> str:
        await asyncio.sleep(0)
        return token

    async def use() -> Any:
        async with keyleash.asyncio.Redis(port=one_leash.server.port, token=provide) as client:
            return await client.incr("t:n")

    assert asyncio.run(use()) == 1
    with pytest.raises(TypeError, match=r"coroutine: use `keyleash\.asyncio\.Redis`"):
        client_of(one_leash, provide)


def test_coalesced_calls_with_a_revoked_token_all_run_once(one_leash: Leash) -> None:
    """Calls of several tasks in one packet are each repeated with the new token."""
    first = one_leash.issue("one")
    source = Tokens(first.token, one_leash.issue("one").token)

    async def use() -> list[Any]:
        async with keyleash.asyncio.Redis(
            port=one_leash.server.port, token=source, coalesce=True
        ) as client:
            await client.get("t:n")
            revoke(one_leash.store, token_id=first.id)
            return await asyncio.gather(*(client.incr("t:n") for _ in range(40)))

    assert sorted(asyncio.run(use())) == [*range(1, 41)]


# Files.


@ONE_EITHER
def test_token_file_is_read_again_after_a_revocation(one_leash: Leash, tmp_path: Path) -> None:
    """Rotation by replacing the file needs no restart."""
    file = tmp_path / "token"
    first = one_leash.issue("one")
    file.write_text(first.token + "\nanother line\n")
    client = client_of(one_leash, keyleash.TokenFile(file))
    client.incr("t:n")
    revoke(one_leash.store, token_id=first.id)

    with pytest.raises(keyleash.TokenRevokedError):
        client.incr("t:n")
    file.write_text(one_leash.issue("one").token)
    assert client.incr("t:n") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: no such file or directory"), (b"", "is empty"), (b" \nx", "is empty")],
)
def test_unusable_token_file_is_an_error(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    """A client is not made without a token."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(keyleash.OperationError, match=message) as error:
        keyleash.Redis(token=keyleash.TokenFile(file))
    assert error.value.code == "file"


def test_file_without_a_token_is_not_shown(tmp_path: Path) -> None:
    """The file may hold another secret."""
    file = tmp_path / "token"
    file.write_bytes(b"hunter2\xff")

    with pytest.raises(keyleash.TokenUnknownError) as error:
        keyleash.Redis(token=keyleash.TokenFile(file))
    assert "hunter2" not in f"{error.value!r} {error.value} {error.value.help}"


# The environment.


@pytest.mark.parametrize("in_file", [True, False])
def test_client_from_the_environment_works(
    one_leash: Leash, in_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """URL and token are in variables, or the token is in a file."""
    token = one_leash.issue("one").token
    (tmp_path / "token").write_text(token)
    monkeypatch.setenv("KEYLEASH_URL", one_leash.server.url)
    monkeypatch.delenv("KEYLEASH_TOKEN", raising=False)
    monkeypatch.setenv(
        *(
            ("KEYLEASH_TOKEN_FILE", str(tmp_path / "token"))
            if in_file
            else ("KEYLEASH_TOKEN", token)
        )
    )

    async def use() -> Any:
        async with keyleash.asyncio.Redis.from_env(wait=1) as client:
            return await client.incr("t:n")

    with keyleash.Redis.from_env(decode_responses=True) as client:
        assert client.set("t:n", 1) is True
        assert client.get("t:n") == "1"
    assert asyncio.run(use()) == 2


@pytest.mark.parametrize(
    ("variables", "code", "message"),
    [
        ({"KEYLEASH_TOKEN": "x"}, "bad-environment", "`KEYLEASH_URL` is not set"),
        ({"KEYLEASH_URL": "redis://h"}, "bad-environment", "neither `KEYLEASH_TOKEN` nor"),
        (
            {"KEYLEASH_URL": "redis://h", "KEYLEASH_TOKEN": "x", "KEYLEASH_TOKEN_FILE": "y"},
            "bad-environment",
            "both `KEYLEASH_TOKEN` and `KEYLEASH_TOKEN_FILE` are set",
        ),
        ({"KEYLEASH_URL": "redis://u:hunter2/@h"}, "bad-url", "`KEYLEASH_URL` does not name"),
    ],
)
def test_incomplete_environment_is_named(
    variables: dict[str, str], code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the variable and not its value."""
    for name in ("KEYLEASH_URL", "KEYLEASH_TOKEN", "KEYLEASH_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(keyleash.OperationError, match=message) as error:
        keyleash.Redis.from_env()
    assert error.value.code == code
    assert "hunter2" not in f"{error.value} {error.value.help}"


def test_token_with_a_newline_or_a_token_id_is_explained_and_not_shown() -> None:
    """A file that was read whole, and the id that a list shows."""
    token = "kl_one_" + "A" * 32
    for wrong, hint in ((token + "\n", "white space is around"), ("abcdefghijkm", "a token id")):
        with pytest.raises(keyleash.TokenUnknownError) as caught:
            keyleash.Redis(token=wrong)
        assert hint in (caught.value.help or "")
        assert wrong.strip() not in str(caught.value)


def test_option_of_the_asyncio_client_is_an_error_of_the_other() -> None:
    """Otherwise the first connection would fail."""
    with pytest.raises(TypeError, match="`coalesce`"):
        keyleash.Redis.from_url("redis://localhost", token="kl_one_" + "A" * 32, coalesce=True)
