"""`keyleash backtest`, `plan --backtest` and `keyleash unused`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import keyleash
from keyleash.errors import LeashError
from support.command_line import Cli
from support.servers import RealServer

POLICY = """\
version: 1
identities:
  runner:
    kind: machine
    grants:
      # Its jobs.
      - allow: [read, write, delete] # all
        keys: ["jobs:{id}:state", "jobs:{id}:old"] # both
        except: ["@blocking"]
      - allow: [read]
        except: ["@blocking"]
        keys:
          - "ctx:*"
          - "gone:*"
      - {allow: [publish, subscribe], channels: ["ev:*", "never:*"]}
      # Legacy.
      - {allow: [write], keys: ["legacy:*"]}
      - {allow: [write], keys: ["jobs:{id}:{kind}"], scripts: [redis-py-lock]}
    rate: {writes: 600/minute}
    budget: {requests: 15/day}
    audit: {reads: true}
  idle:
    kind: machine
    grants: [{allow: [write], keys: ["x:*"]}]
    audit: {reads: true}
  blind:
    kind: machine
    grants: [{allow: [read, write], keys: ["b:*", "c:*"]}, {allow: [write], keys: ["d:*"]}]
"""
NARROWED = """\
version: 1
identities:
  runner:
    kind: machine
    grants:
      # Its jobs.
      - allow: [read, write] # all
        keys: ["jobs:{id}:state"] # both
        except: ["@blocking"]
      - allow: [read]
        except: ["@blocking"]
        keys:
          - "ctx:*"
      - {allow: [publish], channels: ["ev:*"]}
      - {allow: [write], keys: ["jobs:{id}:{kind}"]}
    rate: {writes: 600/minute}
    budget: {requests: 15/day}
    audit: {reads: true}
  blind:
    kind: machine
    grants: [{allow: [read, write], keys: ["b:*", "c:*"]}, {allow: [write], keys: ["d:*"]}]
"""


@pytest.fixture
def recorded(cli: Cli, embedded: RealServer, policy: Path) -> Cli:
    """The command, on a server with some recorded calls."""
    policy.write_text(POLICY)
    cli.ok("load", policy, "--yes")
    runner, blind = (agent(embedded, name) for name in ("runner", "blind"))
    for number in range(7):
        runner.set(f"jobs:{number}:state", "x")
    runner.get("jobs:1:state")
    runner.get("ctx:1")
    runner.publish("ev:1", "x")
    with pytest.raises(LeashError):
        runner.get("other:1")
    blind.set("b:1", "x")
    cli.ok("token", "issue", "idle")
    return cli


def agent(server: RealServer, name: str) -> keyleash.Redis:
    token = keyleash.Operator(server.client()).tokens.issue(name)
    return keyleash.Redis.from_url(server.url, token=token.token)


def rows(report: dict[str, Any]) -> list[tuple[str, str, str, int]]:
    return [(row["identity"], row["outcome"], row["rule"], row["calls"]) for row in report["rows"]]


def test_a_backtest_lists_what_changes_by_identity_and_rule(
    recorded: Cli, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that would be denied is exit code 1; of hundreds of rows the worst are shown."""
    policy.write_text(POLICY.replace('"ctx:*"', '"other:*"').replace("b:*", "a:*"))

    report = recorded.json("backtest", policy, "--since", "1h", exit_code=1)

    assert rows(report) == [
        ("blind", "allow_to_deny", "KEY_NOT_GRANTED", 1),
        ("runner", "allow_to_deny", "KEY_NOT_GRANTED", 1),
        ("runner", "deny_to_allow", "grant of `other:*`", 1),
    ]
    assert report["outcomes"]["unchanged"] == 9
    (example,) = report["rows"][1]["examples"]
    assert example == f"keyleash explain runner --policy {policy} -- GET ctx:1"
    for row in report["rows"]:
        identity, *words = row["examples"][0].split()[2:]
        result = recorded.run("explain", identity, *words)
        assert result.exit_code == (row["outcome"] == "allow_to_deny")
    first, *_ = recorded.run("backtest", policy).stdout.splitlines()
    counts = "9 unchanged, 2 allow→deny, 1 deny→allow, 0 undecided"
    assert re.fullmatch(f"calls of the audit log since [-0-9]+ [:0-9]+Z: {counts}", first)
    monkeypatch.setenv("LINES", "12")
    for words, option in ((["backtest"], "--all"), (["plan", "--backtest", "7d"], "--full")):
        shown = recorded.run(*words, policy).stdout
        assert "runner: KEY" not in shown
        assert f"\n\nand 2 more: `{option}` shows each\n" in shown
        assert "allow→deny  blind: KEY" in recorded.run(*words, policy, option).stdout


def test_a_backtest_of_the_active_policy_changes_nothing(recorded: Cli, policy: Path) -> None:
    """Denied calls stay denied; reads that are not recorded are reported."""
    result = recorded.run("backtest", policy)

    assert result.exit_code == 0
    assert "12 unchanged, 0 allow→deny, 0 deny→allow, 0 undecided" in result.stdout
    assert "warning: reads of blind are not recorded" in result.stderr


def test_a_log_without_calls_is_reported(cli: Cli, policy: Path) -> None:
    """It is no pass of a backtest, as there is nothing to accept; a plan may accept that."""
    policy.write_text(POLICY)
    cli.ok("load", policy, "--yes")

    for words, exit_code, kind in (
        (("backtest", policy, "--allow-undecided", "100%"), 3, "error"),
        (("plan", policy, "--backtest", "7d"), 3, "error"),
        (("plan", policy, "--backtest", "7d", "--allow-undecided", "1%"), 0, "warning"),
    ):
        result = cli.run(*words)
        assert result.exit_code == exit_code
        assert f"{kind}: no call was recorded, nothing was decided\nhelp: run" in result.stderr


def test_limits_are_replayed_by_the_times_of_calls(recorded: Cli, policy: Path) -> None:
    """The hit names the limit, when, and by how much."""
    policy.write_text(POLICY.replace("600/minute", "5/minute"))

    report = recorded.json("backtest", policy, exit_code=1)

    assert rows(report) == [("runner", "allow_to_deny", "rate.writes", 2)]
    (hit,) = report["hits"]
    assert (hit["limit"], hit["calls"], hit["worst"]) == ("rate.writes", 2, 2)
    assert hit["allows"] == "5 a minute"
    assert "limit       runner: rate.writes, 5 a minute: denies 2 calls" in (
        recorded.run("backtest", policy).stdout
    )


def test_what_the_log_does_not_say_is_undecided(recorded: Cli, policy: Path) -> None:
    """A rule for values needs arguments, which are not recorded."""
    grant = 'keys: ["jobs:{id}:state", "jobs:{id}:old"]'
    policy.write_text(POLICY.replace(grant, f"{grant}\n        values: {{max_bytes: 10b}}"))

    report = recorded.json("backtest", policy, exit_code=3)

    assert rows(report) == [("runner", "undecided", "rules for values", 7)]
    assert [line.split()[-2] for line in report["rows"][0]["examples"]] == [
        f"jobs:{number}:state" for number in range(3)
    ]


@pytest.mark.parametrize(
    ("options", "exit_code"),
    [((), 3), (("--allow-undecided", "50%"), 3), (("--allow-undecided", "59%"), 0)],
)
def test_undecided_calls_are_a_pass_up_to_a_share(
    recorded: Cli, policy: Path, options: tuple[str, ...], exit_code: int
) -> None:
    """Of 12 calls 7 are undecided; a plan has the same gate."""
    grant = 'keys: ["jobs:{id}:state", "jobs:{id}:old"]'
    policy.write_text(POLICY.replace(grant, f"{grant}\n        values: {{max_bytes: 10b}}"))

    for words in (("backtest", policy), ("plan", policy, "--backtest", "7d")):
        result = recorded.run(*words, *options)
        assert result.exit_code == exit_code
        assert ("58.3 % of the calls are undecided" in result.stderr) == bool(exit_code)
    for wrong in ("x", "101%", "-1%", "5", "nan%"):
        assert recorded.run("backtest", policy, "--allow-undecided", wrong).exit_code == 2


def test_a_plan_fails_only_for_what_the_file_makes_worse(recorded: Cli, policy: Path) -> None:
    """After a narrowing, a pull request that changes nothing must not fail for a week."""
    narrowed = POLICY.replace('"ctx:*"', '"ctx:2"').replace("600/minute", "5/minute")
    policy.write_text(narrowed)
    recorded.ok("load", policy, "--yes")

    plan = recorded.run("plan", policy, "--backtest", "7d")
    absolute = recorded.run("backtest", policy)
    policy.write_text(narrowed.replace("b:*", "a:*"))
    worse = recorded.json("plan", policy, "--backtest", "7d", exit_code=1)["backtest"]

    assert plan.exit_code == 0, plan.output
    assert "12 unchanged, 0 allow→deny" in plan.stdout
    assert "unchanged: 3 calls denied or undecided by the active policy, too" in plan.stdout
    assert "limit " not in plan.stdout
    assert (absolute.exit_code, "3 allow→deny" in absolute.stdout) == (1, True)
    assert rows(worse) == [("blind", "allow_to_deny", "KEY_NOT_GRANTED", 1)]
    assert worse["already_failing"] == 3


def test_a_plan_with_a_backtest_shows_both(recorded: Cli, policy: Path) -> None:
    """One command of a pipeline has the difference in words and in recorded calls."""
    policy.write_text(POLICY.replace('"ctx:*"', '"ctx:2"'))

    result = recorded.run("plan", policy, "--backtest", "7d")

    assert result.exit_code == 1
    assert "may no longer:" in result.stdout
    assert "allow→deny  runner: KEY_NOT_GRANTED: 1 call" in result.stdout
    report = recorded.json("plan", policy, "--backtest", "7d", exit_code=1)
    assert report["backtest"]["denies"] is True


def test_unused_folds_equal_verdicts_and_lists_what_is_decided_first(
    recorded: Cli, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 300 identities, 2,100 rows were undecided."""
    monkeypatch.setattr("keyleash.cli.backtest.SHOWN_BLOCKS", 5)

    _, *rows = recorded.run("unused").stdout.splitlines()
    shown = recorded.run("unused", "--all").stdout.splitlines()

    assert len(rows) == 5
    assert not [row for row in rows if "undecided" in row]
    assert "`--all` shows each" in recorded.run("unused").stderr
    assert len([row for row in shown if "undecided: reads are not recorded" in row]) == 4
    monkeypatch.setattr("keyleash.cli.backtest.SHOWN_BLOCKS", 50)
    (folded,) = [row for row in recorded.ok("unused").splitlines() if "are not recorded" in row]
    assert folded.startswith("blind     pattern, class  c:* and 3 more (`--json` has all)")


def test_unused_rules_are_listed_and_removed(recorded: Cli, policy: Path, tmp_path: Path) -> None:
    """The rest keeps its comments, and the plan proves that it allows less."""
    output = tmp_path / "narrowed.yaml"

    report = recorded.json("unused", "-o", output)

    found = [
        (rule["identity"], rule["kind"], rule["rule"], rule["undecided"])
        for rule in report["rules"]
    ]
    unread = "reads are not recorded"
    assert found[:-1] == [
        ("runner", "pattern", "jobs:{id}:old", ""),
        ("runner", "class", "delete", ""),
        ("runner", "pattern", "gone:*", ""),
        ("runner", "pattern", "never:*", ""),
        ("runner", "class", "subscribe", ""),
        ("runner", "pattern", "legacy:*", ""),
        ("runner", "class", "write", ""),
        ("runner", "script", "redis-py-lock", ""),
        ("runner", "limit", "rate.writes", ""),
        ("idle", "identity", "idle", ""),
        ("blind", "pattern", "c:*", unread),
        ("blind", "class", "read", unread),
        ("blind", "pattern", "d:*", unread),
        ("blind", "class", "write", unread),
    ]
    assert found[-1][:2] == ("idle", "token")
    assert output.read_text() == NARROWED
    assert recorded.json("plan", output)["widens"] is False
    assert recorded.json("backtest", output)["denies"] is False
    assert recorded.run("unused", "-o", output).exit_code == 1
    removed = recorded.run("unused", "-o", tmp_path / "again.yaml").stderr
    assert "again.yaml --allow-removal`" in removed


def test_a_grant_that_others_depend_on_stays(recorded: Cli, policy: Path, tmp_path: Path) -> None:
    """A rule for values is a restriction, and a limit counts by the capture of a pattern."""
    text = POLICY.replace('keys: ["legacy:*"]', 'keys: ["legacy:*"], values: {max_bytes: 1kb}')
    text = text.replace('"jobs:{id}:old"', '"jobs:{of}:old"').replace(
        "writes: 600/minute", 'writes: {limit: 600/minute, per: "{of}"}'
    )
    policy.write_text(text)
    output = tmp_path / "narrowed.yaml"

    recorded.ok("unused", policy, "-o", output)

    assert 'legacy:*"], values' in output.read_text()
    assert '"jobs:{of}:old"' in output.read_text()


def test_scripts_and_indexes_that_no_call_used_are_removed(
    cli: Cli, embedded: RealServer, policy: Path, tmp_path: Path
) -> None:
    """The stored document has the texts of scripts, and an index may have a filter."""
    (tmp_path / "get.lua").write_text("return redis.call('GET', KEYS[1])")
    indexes = "indexes: [idx, {name: other, where: {agent: one}}], only: [SET, FT.SEARCH]"
    policy.write_text(
        "version: 1\nscripts: {get: {file: get.lua}}\nidentities:\n  runner:\n    kind: machine\n"
        f'    grants: [{{allow: [read, write], keys: ["a:*"], {indexes}, scripts: [get]}}]\n'
        "    audit: {reads: true}\n"
    )
    cli.ok("load", policy, "--yes")
    agent(embedded, "runner").set("a:1", "x")
    output = tmp_path / "narrowed.yaml"

    cli.ok("unused", "-o", output)

    assert "#script" not in output.read_text()
    assert 'grants: [{allow: [write], keys: ["a:*"], only: [SET, FT.SEARCH]}]' in output.read_text()
    assert cli.json("plan", output)["widens"] is False


def test_an_archive_has_no_active_policy(recorded: Cli, policy: Path, tmp_path: Path) -> None:
    """Both commands read archives without a server; `unused` then needs a file."""
    archive = tmp_path / "archive"
    recorded.ok("audit", "export", "--to", archive)
    offline = Cli("redis://127.0.0.1:1")

    found = offline.json("backtest", policy, "--archive", archive, exit_code=3)
    # Reads are known to be recorded from the first one on, which limits of requests need.
    assert {name: count for name, count in found["outcomes"].items() if count} == {
        "unchanged": 5,
        "undecided": 7,
    }
    assert "name a file" in offline.run("unused", "--archive", archive).stderr
    assert offline.json("unused", policy, "--archive", archive)["rules"]
