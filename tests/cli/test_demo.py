"""The demo checks what it shows: an answer that differs is seen and counted."""

from __future__ import annotations

import pytest

from keyleash.cli.demo import command as demo_command
from keyleash.cli.demo import story
from keyleash.cli.demo.stage import ExpectedDenial, Replies
from keyleash.errors import KeyDeniedError, ReplyCode, TokenExpiredError
from support.command_line import Cli

WRONG = story.Scene(
    "a scene that expects what will not happen",
    (
        story.load_example,
        story.issue(story.RUNNER),
        story.call(story.RUNNER, "GET agents:jobs:1:state", Replies("something")),
    ),
)


@pytest.mark.usefixtures("a_wrong_scene")
def test_answer_that_differs_is_marked_counted_and_fails(offline: Cli) -> None:
    """A demo that only prints would show anything."""
    result = offline.run("demo")

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    (place,) = (at for at, line in enumerate(lines) if line.endswith("DIFFERS"))
    assert "(nil)" in lines[place]
    assert lines[place + 1].strip() == "expected: something"
    assert lines[-1] == "1 of 3 replies differ from the expected ones"


@pytest.mark.usefixtures("a_wrong_scene")
def test_demo_as_json_lists_its_steps(offline: Cli) -> None:
    """One document, with what was expected beside what came."""
    said = offline.json("demo", exit_code=1)

    assert (said["ok"], said["checked"], said["differing"]) == (False, 3, 1)
    assert said["steps"][2] == {
        "scene": WRONG.title,
        "who": "agent-runner",
        "call": "GET agents:jobs:1:state",
        "answer": "(nil)",
        "expected": "something",
        "ok": False,
    }


@pytest.fixture
def a_wrong_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo of one scene, which goes wrong."""
    monkeypatch.setattr(demo_command, "SCENES", (WRONG,))


def test_refusal_is_met_by_its_code_and_details_only() -> None:
    """Another code, or a detail that differs, is not what was expected."""
    denied = ExpectedDenial(ReplyCode.KEY_DENIED, {"key": "k"})

    assert denied.is_met_by(KeyDeniedError({"key": "k", "more": "x"}))
    assert not denied.is_met_by(KeyDeniedError({"key": "other"}))
    assert not denied.is_met_by(TokenExpiredError({"key": "k"}))
    assert not denied.is_met_by("KEY_DENIED")
    assert not Replies("x").is_met_by(KeyDeniedError({}))
