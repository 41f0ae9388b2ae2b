"""The demo checks its replies: one that differs is marked and counted."""

from __future__ import annotations

import pytest

from keyleash.addons.demo import story
from keyleash.addons.demo.stage import DemoStage, denied, matches
from keyleash.cli import demo as demo_command
from keyleash.errors import KeyDeniedError, ReplyCode, TokenExpiredError
from support.command_line import Cli

TITLE = "a scene with a wrong expectation"


def _play_wrong_scene(stage: DemoStage) -> None:
    story.load_example(stage)
    stage.issue(story.RUNNER)
    stage.call(story.RUNNER, "GET agents:jobs:1:state", "something")


@pytest.mark.usefixtures("wrong_scene")
def test_answer_that_differs_is_marked_counted_and_fails(offline: Cli) -> None:
    """The demo compares each reply with the expected one."""
    result = offline.run("demo")

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    (place,) = (at for at, line in enumerate(lines) if line.endswith("DIFFERS"))
    assert "(nil)" in lines[place]
    assert lines[place + 1].strip() == "expected: something"
    assert lines[-1] == "1 of 3 replies differ from the expected ones"


@pytest.mark.usefixtures("wrong_scene")
def test_demo_as_json_lists_its_steps(offline: Cli) -> None:
    """The document has each reply beside the expected one."""
    document = offline.json("demo", exit_code=1)

    assert (document["ok"], document["checked"], document["differing"]) == (False, 3, 1)
    assert document["steps"][2] == {
        "scene": TITLE,
        "who": "agent-runner",
        "call": "GET agents:jobs:1:state",
        "answer": "(nil)",
        "expected": "something",
        "ok": False,
    }


@pytest.fixture
def wrong_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the scenes of the demo by one with a wrong expectation."""
    monkeypatch.setattr(demo_command, "SCENES", ((TITLE, _play_wrong_scene),))


def test_expected_denial_matches_by_code_and_details_only() -> None:
    """Another code, a detail that differs or a reply does not match."""
    expected = denied(ReplyCode.KEY_DENIED, key="k")

    assert matches(KeyDeniedError({"key": "k", "more": "x"}), expected)
    assert not matches(KeyDeniedError({"key": "other"}), expected)
    assert not matches(TokenExpiredError({"key": "k"}), expected)
    assert not matches("KEY_DENIED", expected)
    assert not matches(KeyDeniedError({}), "x")
