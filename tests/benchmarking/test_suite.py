"""Output, files and exit status of the suite, with a section that measures nothing."""

from __future__ import annotations

import json
from pathlib import Path

import benchmarks.__main__ as suite
import pytest
from benchmarks.support.bars import Bar, Side, Spread
from benchmarks.support.measure import MiscountError
from benchmarks.support.section import Figure, Section, Setting, joined, read_sections

FIGURE = Figure("guarded SET", "ops/s", Spread(2.0, 1.0, 3.0), "valkey 9", {"clients": 50})


class Made:
    """A section with one bar, or one that fails."""

    NAME = "made"

    def __init__(self, value: float, error: Exception | None = None) -> None:
        self._value = value
        self._error = error
        self.drawn: list[Section] = []

    def measure(self, setting: Setting) -> Section:
        if self._error is not None:
            raise self._error
        bar = Bar("guarded SET", Side.AT_LEAST, 0.7, "raw SET", self._value, 0.77)
        return Section(self.NAME, "a table", (FIGURE,), (("valkey 9", bar),), {"a": "b"})

    def draw(self, section: Section, folder: Path) -> list[Path]:
        assert folder.is_dir()
        self.drawn.append(section)
        return []


def run(made: Made, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(suite, "BY_NAME", {made.NAME: made})
    return suite.main([*options, "--server", "embedded"])


def test_bars_decide_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missed bar is 1, or 0 with `--no-bar`."""
    out = ("--out", str(tmp_path))

    assert run(Made(0.7), monkeypatch, *out) == 0
    assert run(Made(0.6), monkeypatch, *out) == 1
    assert run(Made(0.6), monkeypatch, *out, "--no-bar") == 0


def test_section_that_cannot_be_measured_is_status_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A miscount is not a measurement, whatever the other bars are."""
    failing = Made(0.7, MiscountError("`guarded SET`: 1 where 2 was expected"))

    assert run(failing, monkeypatch, "--out", str(tmp_path), "--no-bar") == 2
    assert "made: `guarded SET`: 1 where 2 was expected" in capsys.readouterr().err


def test_results_contain_machine_commit_and_figures_and_can_be_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results can be read back."""
    made = Made(0.75)
    run(made, monkeypatch, "--out", str(tmp_path))
    (file,) = (tmp_path / "results").iterdir()
    results = json.loads(file.read_text(encoding="utf-8"))

    assert results.keys() >= {
        "commit",
        "cpu",
        "kernel",
        "python",
        "packages",
        "servers",
        "sections",
    }
    assert results["servers"] == ["valkey 9"]
    assert read_sections(file) == made.drawn
    assert run(made, monkeypatch, "--draw", str(file), "--out", str(tmp_path)) == 0
    assert made.drawn == [made.drawn[0]] * 2


def test_json_option_prints_the_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs read standard output."""
    run(Made(0.75), monkeypatch, "--out", str(tmp_path), "--json")

    (section,) = json.loads(capsys.readouterr().out)["sections"]
    assert section["name"] == "made"


def test_run_without_an_output_folder_writes_to_the_ignored_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are not part of the repository."""
    monkeypatch.setattr(suite, "CACHE", tmp_path)
    run(Made(0.75), monkeypatch, "--quick")

    assert list((tmp_path / "results").iterdir())


def test_joined_sections_are_noisy_if_one_of_them_is() -> None:
    """Joined sections are as reliable as the worst."""
    quiet = Section("made", "a", (FIGURE,))
    noisy = Section("made", "b", (FIGURE,), noisy=True)

    both = joined("made", [quiet, noisy])

    assert both.noisy
    assert both.text == "a\n\nb"
    assert both.figures == (FIGURE, FIGURE)
