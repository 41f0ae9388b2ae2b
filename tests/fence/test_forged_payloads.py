"""No tool restores a forged before-image that would crash the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyleash.audit.point_in_time import value_at
from keyleash.audit.undo.apply import apply_undo
from keyleash.audit.undo.key_plans import ConflictKind, UndoPlan, plan_undo
from keyleash.errors import UnvalidatedRestoreError
from keyleash.fence.apply import remove_fences
from keyleash.servers import EmbeddedServer
from keyleash.text import moment
from support.command_line import Cli
from support.errors import raises_code
from support.fences import FencedLeash
from support.leash import NAMES, grant
from support.payloads import corrupted
from support.servers import RealServer, embedded_label, find_server_binaries

SETTING = "sanitize-dump-payload"
NOT_RESTORED = "not restored: the server does not validate payloads"
ONE: dict[str, Any] = {
    "grants": [grant("read", "write", "delete", keys="a:*")],
    "audit": {"before_images": {"max_bytes": "64kb"}},
}


@pytest.fixture(params=list(find_server_binaries()))
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A server of its own for each test, because it may crash."""
    binary = find_server_binaries()[request.param]
    with EmbeddedServer(binary=binary, data=tmp_path / "data") as process:
        yield process


@pytest.fixture
def leash(request: pytest.FixtureRequest, process: EmbeddedServer) -> Iterator[FencedLeash]:
    """A fenced agent that changed its hash."""
    server = RealServer(request.node.callspec.params["process"], process)
    leash = FencedLeash(server)
    validate(leash, "no")
    leash.load(one=ONE)
    leash.fence()
    agent: Any = leash.agent("one")
    agent.hset("a:1", "field", "v")
    agent.hset("a:1", "field", "w")
    yield leash
    server.close_clients()


def validate(leash: FencedLeash, setting: str) -> None:
    if leash.admin.config_get(SETTING):
        leash.admin.config_set(SETTING, setting)


def validates_always(leash: FencedLeash) -> bool:
    return bool(leash.server.label == embedded_label())


def forge(leash: FencedLeash) -> str:
    """Append, as the agent's user, a change of `a:2` with a corrupt before-image."""
    direct = leash.direct("one")
    direct.hset("a:2", "field", "w")
    _, event = leash.admin.xrevrange(NAMES.audit("one"), count=2)[-1]
    event |= {b"HSET": b"a:2", b"before": b"a:2", b"image": corrupted(event[b"image"])}
    words = [word for pair in event.items() for word in pair]
    appended: bytes = direct.execute_command("XADD", NAMES.audit("one"), "*", *words)
    return f"one/{appended.decode()}"


def newest(leash: FencedLeash) -> str:
    """Return the agent's newest event, without the value after it."""
    return f"one/{leash.admin.xrevrange(NAMES.audit('one'), count=2)[-1][0].decode()}"


def plan(leash: FencedLeash, event: str, **options: Any) -> UndoPlan:
    return plan_undo(leash.store, events=(event,), **options)


def test_forged_before_image_does_not_crash_the_server(
    leash: FencedLeash, process: EmbeddedServer, tmp_path: Path
) -> None:
    """Each command that reads before-images shows the rest; the server still answers."""
    forged = forge(leash)
    cli, outputs = Cli(leash.server.url), {}
    for words in (
        ("audit", "show", forged),
        ("audit", "report", "-o", tmp_path / "report.html"),
        ("audit", "log"),
        ("audit", "timeline", "a:2"),
        ("audit", "as-of", "1h", "a:2"),
        ("undo", "--key", "a:2", "--since", "1h", "--dry-run"),
        ("undo", "--event", forged, "--yes"),
        ("undo", "--event", forged, "--yes", "--force", "a:2"),
    ):
        outputs[words[:2]] = cli.run(*words)
        assert process.running
        assert leash.admin.ping()
        assert outputs[words[:2]].exit_code in {0, 1}, outputs[words[:2]].output

    assert leash.admin.hgetall("a:2") == {b"field": b"w"}
    if not validates_always(leash):
        assert NOT_RESTORED in outputs["audit", "show"].stdout
        assert NOT_RESTORED in (tmp_path / "report.html").read_text()


def test_unvalidated_before_image_cannot_be_forced(leash: FencedLeash) -> None:
    """It is no conflict that an operator can override; the plan names the server setting."""
    forged = forge(leash)
    made = plan(leash, forged, force={b"a:2"})
    if validates_always(leash):
        assert ConflictKind.UNVALIDATED not in {
            conflict.kind for conflict in made.keys[0].conflicts
        }
        return

    (key,) = made.keys
    assert [(conflict.kind, conflict.is_forced) for conflict in key.conflicts] == [
        (ConflictKind.UNVALIDATED, False)
    ]
    with raises_code("undo-denied") as caught:
        apply_undo(leash.store, made)
    assert "`CONFIG SET sanitize-dump-payload yes` takes effect at once" in str(caught.value.help)
    shown = Cli(leash.server.url).run("undo", "--event", forged, "--yes")
    assert "the server does not validate payloads (set `sanitize-dump-payload yes`)" in shown.output


def test_undo_checks_payload_validation_again(leash: FencedLeash) -> None:
    """The setting may have changed since the plan was made."""
    validate(leash, "yes")
    made = plan(leash, newest(leash))
    validate(leash, "no")
    if validates_always(leash):
        apply_undo(leash.store, made)
        return

    with pytest.raises(UnvalidatedRestoreError, match="the before-image of `a:1` is not restored"):
        apply_undo(leash.store, made)
    assert leash.admin.hgetall("a:1") == {b"field": b"w"}
    validate(leash, "yes")
    apply_undo(leash.store, made)


def test_as_of_with_a_forged_before_image_is_an_error(leash: FencedLeash) -> None:
    """The error names the reason and the remedy; values without payloads are shown."""
    forged = forge(leash)
    at_ms = int(forged.removeprefix("one/").partition("-")[0]) - 1
    if validates_always(leash):
        return

    with pytest.raises(UnvalidatedRestoreError) as caught:
        value_at(leash.store, b"a:2", moment(at_ms))

    assert str(caught.value).startswith(f"the before-image in event {forged} is not restored: with")
    assert "an agent of `one` may have forged it" in str(caught.value)
    now = moment(leash.store.now_ms())
    assert value_at(leash.store, b"a:2", now).value.elements[:2] == (b"field", b"w")


def test_validating_server_restores_before_images_of_fenced_agents(leash: FencedLeash) -> None:
    """Undo and as-of work as for other agents; the forgery is unreadable."""
    validate(leash, "yes")
    apply_undo(leash.store, plan(leash, newest(leash)))
    assert leash.admin.hgetall("a:1") == {b"field": b"v"}

    forged = plan(leash, forge(leash))

    assert ConflictKind.UNREADABLE in {conflict.kind for conflict in forged.keys[0].conflicts}


@pytest.mark.parametrize("change", ["none", "fence removed", "other database"])
def test_forged_before_image_is_not_restored_after_the_user_was_deleted(
    leash: FencedLeash, change: str
) -> None:
    """Forged entries remain in the audit stream."""
    forged = forge(leash)
    if change == "fence removed":
        remove_fences(leash.fenced_servers(), ("one",))
        assert "one" not in leash.admin.acl_users()
    elif change == "other database":
        # As if another deployment had made the user, which begins in database 0.
        leash.admin.delete(NAMES.forgeable, NAMES.fence)

    made = plan(leash, forged)

    kinds = {conflict.kind for conflict in made.keys[0].conflicts}
    assert (ConflictKind.UNVALIDATED in kinds) is not validates_always(leash)


def test_agent_that_could_not_forge_is_undone_without_validation(
    process: EmbeddedServer, request: pytest.FixtureRequest
) -> None:
    """Unfenced agents are not affected."""
    server = RealServer(request.node.callspec.params["process"], process)
    leash = FencedLeash(server)
    validate(leash, "no")
    leash.load(one=ONE)
    agent: Any = leash.agent("one")
    agent.hset("a:1", "field", "v")
    agent.hset("a:1", "field", "w")

    apply_undo(leash.store, plan(leash, newest(leash)))

    assert agent.hget("a:1", "field") == b"v"
    server.close_clients()
