"""Instructions per command exclude the overhead of a run."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
from benchmarks.instructions import CONTROL, FEWER, main, per_call, watched
from benchmarks.ladder import RAW_SET, SET_ONLY
from benchmarks.support.bench import Contender, Plan, bench_on
from benchmarks.support.load import Generator
from benchmarks.support.policy import load_target
from benchmarks.support.servers import Cores, choose_servers


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(CONTROL) is None, reason="valgrind is not installed")
def test_script_that_sets_takes_more_instructions_than_the_set_within_it(tmp_path: Path) -> None:
    """A script adds some thousands of instructions on any server."""
    (choice,) = choose_servers(["embedded"])
    plan = Plan(rounds=1, requests=FEWER, connections=(1,))
    with (
        Generator(None) as generator,
        bench_on(watched(choice, tmp_path), plan, Cores(None, None), generator) as bench,
    ):
        target = load_target(bench.admin)
        raw, scripted = (
            per_call(bench, partial(bench.sample, Contender(variant, target), 1), tmp_path)
            for variant in (RAW_SET, SET_ONLY)
        )
    assert 1_000 < raw < scripted < 1_000_000
    assert scripted - raw > 5_000


def test_missing_valgrind_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No server is started."""
    monkeypatch.setattr("benchmarks.instructions.shutil.which", lambda _: None)

    assert main(["--server", "embedded"]) == 2
    assert "valgrind is not installed" in capsys.readouterr().err
