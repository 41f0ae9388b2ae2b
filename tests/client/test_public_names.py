"""The public names of the client: modules, errors and types."""

from __future__ import annotations

import asyncio
import copy
import importlib
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from tools.site_pages import results

import keyleash
import keyleash.types
from keyleash import errors
from support.leash import Leash

PROGRAM = Path(__file__).with_name("typed_program.py")


@pytest.mark.slow
def test_program_with_public_names_alone_passes_strict_mypy(tmp_path: Path) -> None:
    """Checked as a user would, without the configuration of this repository."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(PROGRAM)]

    ran = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_results_have_public_names() -> None:
    """A program annotates what it passes on."""
    assert keyleash.types.__all__ == [kind.__name__ for kind in results()]


@pytest.mark.slow
def test_name_that_does_not_exist_fails_in_mypy(tmp_path: Path) -> None:
    """Names that are found when they are used must not hide the wrong ones."""
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(
        "import keyleash\nfrom keyleash import Nope\nx: keyleash.Operatr\n"
        "keyleash.Operator(5)\nkeyleash.asyncio.Operatr\nkeyleash.KeyNotGrantedErrors\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(program)]

    ran = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)

    wrong = [line.split(":")[1] for line in ran.stdout.splitlines() if ": error:" in line]
    assert wrong == ["2", "3", "4", "5", "6"], ran.stdout


def test_public_classes_name_the_module_that_programs_import() -> None:
    """Tracebacks show `keyleash.KeyDeniedError`, and pickles do not depend on files inside."""
    public = [getattr(keyleash, name) for name in keyleash.__all__]

    assert {item.__module__ for item in public if isinstance(item, type)} == {"keyleash"}
    assert keyleash.asyncio.Redis.__module__ == "keyleash.asyncio"


def test_all_errors_are_public() -> None:
    """A program can catch each error of any module by a name of `keyleash`."""
    for module in pkgutil.walk_packages(keyleash.__path__, "keyleash."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    left, defined = [errors.KeyleashError], set[type]()
    while left:
        defined.add(kind := left.pop())
        left += kind.__subclasses__()
    public = {kind for kind in defined if kind.__module__.partition(".")[0] == "keyleash"}

    assert {kind.__name__ for kind in public if kind.__module__ != "keyleash"} == set()
    assert {kind.__name__ for kind in public} <= set(keyleash.__all__)
    assert {"Batch", "Pipeline", "Redis", "TokenFile", "WhoAmI"} <= set(keyleash.__all__)


def test_repr_of_a_denial_shows_code_key_and_identity(one_leash: Leash) -> None:
    """It also survives a copy and a pickle; the token is in none of them."""
    token = one_leash.issue("one").token
    with pytest.raises(keyleash.KeyNotGrantedError) as denied:
        one_leash.client(token).get("u:a")

    error = denied.value
    shown = "KeyNotGrantedError(code='KEY_NOT_GRANTED', key='u:a', identity='one')"
    for same in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301
        assert repr(same) == shown
        assert (same.key, same.identity) == ("u:a", "one")
    assert token not in f"{error!r} {error} {vars(error)}"


def test_repr_of_an_operators_error_shows_message_and_code() -> None:
    """Such an error has no key."""
    error = keyleash.OperationError("file", "the token file `x` is empty")

    assert repr(error) == "OperationError('the token file `x` is empty', code='file')"


def test_correlation_may_come_from_a_callable(one_leash: Leash) -> None:
    """It is asked for each call; without an answer the call gets a new id."""
    answers = iter(["trace-1", "trace-2", None])
    client = one_leash.agent("one")
    with keyleash.correlation(lambda: next(answers)):
        for _ in range(3):
            client.incr("t:n")

    ids = [event["correlation"] for event in one_leash.events("one")]
    assert ids[:2] == ["trace-1", "trace-2"]
    assert ids[2]


def test_correlation_of_a_client_applies_outside_of_blocks(one_leash: Leash) -> None:
    """A block overrides it; a pipeline and a client of the same session have it too."""
    answers = iter(["trace-1", "trace-2"])
    fixed, asked = (
        one_leash.agent("one", correlation=source) for source in ("job-1", lambda: next(answers))
    )
    fixed.incr("t:n")
    with keyleash.correlation("inner"):
        fixed.incr("t:n")
    with fixed.pipeline() as pipe:
        pipe.incr("t:n")
        pipe.execute()
    fixed.client().incr("t:n")
    asked.incr("t:n")
    asked.incr("t:n")

    ids = [event["correlation"] for event in one_leash.events("one")]
    assert ids == ["job-1", "inner", "job-1", "job-1", "trace-1", "trace-2"]


def test_correlation_of_an_asyncio_client_applies_to_coalesced_calls(one_leash: Leash) -> None:
    """Commands of clients with different ids do not share an event."""
    token, url = one_leash.issue("one").token, one_leash.server.url

    async def incr(name: str, coalesce: bool) -> None:
        async with keyleash.asyncio.Redis.from_url(
            url, token=token, correlation=name, coalesce=coalesce
        ) as client:
            await asyncio.gather(*(client.incr("t:n") for _ in range(3)))

    asyncio.run(incr("alone", coalesce=False))
    asyncio.run(incr("together", coalesce=True))

    events = one_leash.events("one")
    assert [event["correlation"] for event in events[:3]] == ["alone"] * 3
    assert {event["correlation"] for event in events[3:]} == {"together"}


def test_correlation_of_a_client_is_checked_when_it_is_made(one_leash: Leash) -> None:
    """A token or a number is an error at once."""
    token = one_leash.issue("one").token

    with pytest.raises(keyleash.SecretInTextError):
        one_leash.client(token, correlation=token)
    with pytest.raises(TypeError):
        one_leash.client(token, correlation=7)


def test_correlation_of_a_callable_is_checked(one_leash: Leash) -> None:
    """A token or a number is an error, and nothing is sent."""
    client = one_leash.agent("one")
    token = one_leash.issue("one").token

    with keyleash.correlation(lambda: token), pytest.raises(keyleash.SecretInTextError) as error:
        client.incr("t:n")
    assert token not in str(error.value)
    with keyleash.correlation(lambda: 7), pytest.raises(TypeError):  # type: ignore[type-var]
        client.incr("t:n")
    assert one_leash.admin.get("t:n") is None
