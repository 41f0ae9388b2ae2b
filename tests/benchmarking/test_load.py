"""The load generator: requests and expected replies."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from benchmarks.support.load import (
    BuildError,
    Exchange,
    Generator,
    Load,
    LoadError,
    load_generator,
    packed,
)

from support.servers import RealServer

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc")) is None, reason="needs a C compiler"
)


def test_absent_compiler_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the packages."""
    monkeypatch.setenv("CC", "no-such-compiler")

    with pytest.raises(BuildError, match=r"no-such-compiler.*install gcc or clang"):
        load_generator(tmp_path)


@needs_compiler
def test_program_is_compiled_once_for_the_same_source(tmp_path: Path) -> None:
    """The second run uses the program of the first, without partial files."""
    program = load_generator(tmp_path)
    made = program.stat().st_mtime_ns

    assert load_generator(tmp_path).stat().st_mtime_ns == made
    assert list(tmp_path.iterdir()) == [program]


@needs_compiler
def test_run_makes_exactly_the_given_number_of_calls(embedded: RealServer) -> None:
    """Calls are shared among connections, also in a second run."""
    admin = embedded.client()
    both = Exchange(packed(["SET", "k", "v"]) + packed(["GET", "k"]), b"+OK\r\n$1\r\nv\r\n")
    load = Load(embedded.port, 101, ((both,), (both, both)))
    with Generator(None) as generator:
        for runs in (1, 2):
            generator.prepare(load)
            assert generator.run().wall_s > 0

            assert admin.info("commandstats")["cmdstat_get"]["calls"] == 101 * runs


@needs_compiler
def test_value_larger_than_the_buffers_is_sent_and_received(embedded: RealServer) -> None:
    """Large values are transferred in parts."""
    value = "v" * 3_000_000
    both = Exchange(
        packed(["SET", "k", value]) + packed(["GET", "k"]),
        f"+OK\r\n${len(value)}\r\n{value}\r\n".encode(),
    )
    with Generator(None) as generator:
        generator.prepare(Load(embedded.port, 6, ((both,), (both,))))

        assert generator.run().wall_s > 0


@needs_compiler
@pytest.mark.parametrize("expected", [b"+OK\r", b"+OK\r\n", b"+PONG\r\n+PONG\r\n", b"-ERR\r\n"])
def test_unexpected_reply_fails_the_run(embedded: RealServer, expected: bytes) -> None:
    """A run with denials must not look like a fast one."""
    exchange = Exchange(packed(["PING"]) + packed(["ECHO", "x"]), expected)
    with Generator(None) as generator:
        generator.prepare(Load(embedded.port, 10, ((exchange,),)))

        with pytest.raises(LoadError, match=r"PONG.* where .* was expected"):
            generator.run()


@needs_compiler
def test_missing_server_is_a_load_error() -> None:
    """The error is not a broken pipe."""
    exchange = Exchange(packed(["PING"]), b"+PONG\r\n")
    with Generator(None) as generator, pytest.raises(LoadError, match="connect"):
        generator.prepare(Load(1, 1, ((exchange,),)))
