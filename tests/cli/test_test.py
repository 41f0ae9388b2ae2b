"""`keyleash test`: unit tests of a policy."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyleash.compiler.render import examples_root
from keyleash.evaluate.trace import ALLOWED
from support.command_line import Cli
from support.replication import PATIENCE_S
from support.servers import RealServer

EXAMPLE = examples_root() / "agents.test.yaml"
JOBS = examples_root() / "jobs.test.yaml"
MEMORY = examples_root() / "memory.test.yaml"
POLICY = """\
version: 1
identities:
  one:
    kind: machine
    grants:
      - {allow: [read, write], keys: ["k:{part}", "j:*"]}
      - {allow: [publish], channels: ["c:*"]}
    deny: [{keys: ["j:locked"]}]
    rate: {writes: {limit: 2/minute, per: token}}
"""


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """A file for cases, in the folder of the policy above."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path / "policy.test.yaml"


def write(file: Path, *cases: str) -> Path:
    lines = "".join(f"  - {{identity: one, {case}}}\n" for case in cases)
    file.write_text(f"policy: policy.yaml\ncases:\n{lines}")
    return file


@pytest.mark.parametrize(("example", "count"), [(EXAMPLE, 14), (JOBS, 5)])
def test_tests_of_an_example_pass_and_cover_all_of_it(
    offline: Cli, example: Path, count: int
) -> None:
    """The examples run on the model and on real guards, that of jobs with bound tokens."""
    report = offline.json("test", example, "--min-coverage", "100")

    assert (report["failed"], report["disagreed"]) == (0, 0)
    assert report["passed"] == len(report["cases"]) >= count
    assert report["coverage"]["percent"] == 100
    assert report["server"] == "an embedded server"
    assert all(case["guard"] is not None for case in report["cases"])


def test_commands_of_modules_are_tested_without_a_server_that_has_them(
    offline: Cli, cases: Path
) -> None:
    """The guard decides; that the server lacks the command is the command's own error."""
    write(
        cases,
        'command: "JSON.SET j:1 $ 1", expect: allow',
        'command: "JSON.GET j:1 $..a", expect: allow',
        'command: "CMS.MERGE j:1 1 k:2", expect: allow',
        'command: "JSON.MGET j:1 i:1 $", expect: {code: KEY_NOT_GRANTED, key: "i:1"}',
        'command: "JSON.DEL j:1", expect: {code: CLASS_NOT_GRANTED, class: delete}',
    )

    for options in ([], ["--no-server"]):
        report = offline.json("test", cases, *options)
        assert (report["passed"], report["failed"], report["disagreed"]) == (5, 0, 0)


def test_restrictions_that_the_policy_does_not_allow_are_reported(
    offline: Cli, cases: Path
) -> None:
    """As `token issue` reports them, with their places; a secret is not repeated."""
    policy = cases.with_name("policy.yaml")
    secret = f"kl_one_{32 * 'A'}"
    tokens = [
        '{bind: {job: "1"}}',
        '{bind: {part: "a:b"}}',
        '{keys: ["other"]}',
        "{allow: [scan]}",
        "{budget: {writes: 0}}",
        f"{{bind: {{part: {secret}}}}}",
    ]
    write(cases, *(f"token: {token}, command: PING, expect: allow" for token in tokens))

    output = offline.run("test", cases, "--no-server").stderr
    assert output.count("the policy does not let tokens of `one` be bound") == 1
    assert "the same at 4 other places, in lines 4, 5, 6, 7" in output
    policy.write_text(POLICY.replace("kind: machine", "kind: machine\n    token: {bound: true}"))
    result = offline.run("test", cases, "--no-server")

    assert result.exit_code == 65
    assert secret not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith(str(cases))]
    assert [line.removeprefix(f"{cases}:") for line in lines] == [
        "3:28: no pattern of `one` has the capture `{job}`",
        "4:28: `a:b` cannot be the value of `part`",
        "5:28: no grant of `one` has the key `other`",
        "6:28: no grant of `one` allows `scan`",
        "7:28: the budget of `writes` is not between 1 and 1000000000000000",
        "8:28: `bind` contains a token, and this text is stored and shown to others",
    ]


def test_failed_case_is_one_line(offline: Cli, cases: Path) -> None:
    """The line has the place, the expected and the actual decision."""
    write(
        cases,
        "command: GET k:1, expect: allow",
        "name: locked, command: GET j:locked, expect: allow",
        "command: GET x, expect: {code: KEY_NOT_GRANTED, key: y}",
        "steps: [{command: SET k:1 v, expect: allow, repeat: 3}]",
    )

    result = offline.run("test", cases)

    assert result.exit_code == 1
    first, second, third, *rest = result.stdout.splitlines()
    assert first == (
        f"{cases}:4: locked: one: GET j:locked: expected allow, got KEY_DENIED key=j:locked"
    )
    assert second == (
        f"{cases}:5: one: GET x: expected KEY_NOT_GRANTED key=y, got KEY_NOT_GRANTED key=x"
    )
    assert third == (
        f"{cases}:6: one: SET k:1 v (call 3 of 3): expected allow, "
        "got RATE_LIMITED limit=rate.writes retry_after_ms=60000"
    )
    assert rest[-1].startswith("1 case passed, 3 failed, on the model and an embedded server; ")


@pytest.mark.parametrize(
    ("others", "where"),
    [
        ([], "1 case passed, on the model only; "),
        (
            ["command: GET k:1, expect: allow"],
            "2 cases passed, on the model and an embedded server (1 on the model only); ",
        ),
    ],
)
def test_cases_that_no_guard_decides_are_counted(
    offline: Cli, cases: Path, others: list[str], where: str
) -> None:
    """A server is named only if a case ran on it."""
    write(cases, "command: INFO, expect: allow", *others)

    assert offline.ok("test", cases).splitlines()[-1].startswith(where)


def test_sizes_of_a_call_can_be_expected(offline: Cli, cases: Path) -> None:
    """Model and guard agree on the sizes of a call."""
    policy = cases.with_name("policy.yaml")
    policy.write_text(
        POLICY.replace('"j:*"]}', '"j:*"], values: {max_bytes: 100mb}}')
        + "    limits: {work: 1000}\n"
    )
    write(
        cases,
        "command: SETRANGE k:1 104857600 x, "
        "expect: {code: VALUE_TOO_LARGE, bytes: 104857601, limit: 104857600}",
        "command: SETRANGE k:1 99999999 x, expect: {code: WORK_TOO_LARGE, limit: 1000, work: 0}",
    )

    result = offline.run("test", cases)

    assert "1 case passed, 1 failed" in result.stdout
    work = re.search(r"got WORK_TOO_LARGE command=SETRANGE work=(\d+) limit=1000", result.stdout)
    assert work
    cases.write_text(cases.read_text().replace("work: 0", f"work: {work[1]}"))
    offline.ok("test", cases)


def test_trace_of_a_failed_case_is_shown_on_demand(offline: Cli, cases: Path) -> None:
    """The trace has the same steps as `explain`."""
    write(cases, "command: GET j:locked, expect: allow")

    assert "deny by" not in offline.run("test", cases, "--no-server").stdout
    assert "deny by `j:locked`" in offline.run("test", cases, "--no-server", "--trace").stdout


def test_pattern_without_a_case_is_listed(offline: Cli, cases: Path) -> None:
    """An untested pattern is still in effect."""
    write(cases, "command: GET k:1, expect: allow", "command: GET j:locked, expect: KEY_DENIED")

    report = offline.json("test", cases, "--no-server")

    assert report["coverage"]["percent"] == 50
    (policy,) = report["coverage"]["policies"]
    assert [item["pattern"] for item in policy["uncovered"]] == ["j:*", "c:*"]
    assert policy["uncovered"][0]["place"]["line"] == 6
    result = offline.run("test", cases, "--no-server", "--min-coverage", "51")
    assert result.exit_code == 1
    assert ":6:51: note: no case covers the grant of `j:*` of one" in result.stdout
    assert "coverage 50 % (2 of 4 patterns)" in result.stdout
    assert "below 51 %" in result.stderr
    assert offline.run("test", cases, "--no-server", "--min-coverage", "50").exit_code == 0


def test_denied_call_does_not_cover_a_grant(offline: Cli, cases: Path) -> None:
    """Only a pattern that granted a class or denied a key is covered."""
    write(
        cases,
        "command: PUBLISH d:1 x, expect: CHANNEL_NOT_GRANTED",
        "command: GET x, expect: KEY_NOT_GRANTED",
    )

    assert offline.json("test", cases, "--no-server")["coverage"]["percent"] == 0


def test_tokens_of_a_case_have_separate_counters(offline: Cli, cases: Path) -> None:
    """The clock is simulated: a minute passes at once."""
    write(
        cases,
        "steps: [{command: SET k:1 v, expect: allow, repeat: 2},"
        " {command: SET k:1 v, expect: RATE_LIMITED},"
        " {command: SET k:1 v, token: b, expect: allow},"
        " {advance: 1m, command: SET k:1 v, expect: allow}]",
    )

    assert offline.run("test", cases).exit_code == 0


def test_disagreement_of_model_and_guard_exits_with_70(
    offline: Cli, cases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disagreement is a bug of keyleash, whatever the case expects."""

    def all_allowed(case: Any, *_: object) -> Iterator[Any]:
        return iter([ALLOWED] * sum(step.times for step in case.steps))

    monkeypatch.setattr("keyleash.addons.policy_tests.run.model_decisions", all_allowed)
    write(
        cases, "command: GET j:locked, expect: KEY_DENIED", "command: GET j:locked, expect: allow"
    )

    result = offline.run("test", cases)

    assert result.exit_code == 70
    assert result.stdout.count("MODEL AND GUARD DISAGREE: model allow, guard KEY_DENIED") == 2
    assert "2 with a disagreement" in result.stdout


def test_named_server_is_empty_after_the_tests(server: RealServer, cases: Path) -> None:
    """Tests on a named server need consent, and remove their keys."""
    cli = Cli("redis://127.0.0.1:1")
    write(cases, "command: SET k:1 v, expect: allow", "command: GET j:locked, expect: KEY_DENIED")

    assert "cannot ask for confirmation" in cli.run("test", cases, "--server", server.url).stderr
    assert cli.run("test", cases, "--server", server.url, "--yes").exit_code == 0
    assert cli.run("test", cases, "--yes", KEYLEASH_TEST_URL=server.url).exit_code == 0

    assert server.client().dbsize() == 0


def test_searches_are_tested_on_a_server_that_has_them(
    offline: Cli, cases: Path, stack_server: RealServer
) -> None:
    """Elsewhere the model decides alone; each case begins without indexes."""
    assert offline.ok("test", MEMORY).splitlines()[-1] == (
        "4 cases passed, on the model only (searches need `--server` and the module Search); "
        "coverage 100 % (3 of 3 patterns)"
    )
    where = ["--server", stack_server.url, "--yes"]
    report = offline.json("test", MEMORY, *where, "--min-coverage", "100")
    assert (report["passed"], report["failed"], report["disagreed"]) == (4, 0, 0)
    assert all(case["guard"] is not None for case in report["cases"])
    cases.with_name("policy.yaml").write_text(
        POLICY.replace('["k:{part}", "j:*"]', '["k:{part}:*"], indexes: ["i:{part}"]').replace(
            "    deny:", "    token: {bound: true}\n    deny:"
        )
    )
    make = "{command: 'FT.CREATE i:b PREFIX 1 k:a: SCHEMA t TEXT', expect: allow}"
    search = "{command: FT.SEARCH i:b x, token: {bind: {part: b}}, expect: KEY_NOT_GRANTED}"
    write(cases, f"steps: [{make}, {search}]")
    assert "1 case passed" in offline.run("test", cases, *where).stdout

    stack_server.client().execute_command("FT.CREATE", "own", "SCHEMA", "t", "TEXT")
    assert "already has search indexes" in offline.run("test", cases, *where).stderr
    assert stack_server.client().execute_command("FT._LIST") == [b"own"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_embedded", [True, False])
def test_signal_ends_the_tests_and_leaves_nothing(
    embedded: RealServer, cases: Path, number: signal.Signals, is_embedded: bool
) -> None:
    """A canceled pipeline can run again."""
    write(cases, *["command: SET k:1 v, expect: allow"] * 3000)
    admin: Any = embedded.client()
    where = [] if is_embedded else ["--server", embedded.url, "--yes"]
    with Cli("redis://127.0.0.1:1").spawn(["test", cases, *where]) as testing:
        children = Path(f"/proc/{testing.pid}/task/{testing.pid}/children")
        while not (children.read_text() if is_embedded else admin.dbsize()):
            time.sleep(0.01)
        testing.send_signal(number)
        _, errors = testing.communicate(timeout=PATIENCE_S)

    assert testing.returncode == 130
    assert "Traceback" not in errors
    assert errors.endswith("interrupted\n")
    assert admin.dbsize() == 0


def test_coverage_of_nan_is_a_usage_error(offline: Cli, cases: Path) -> None:
    """No coverage is below NaN, so every run would pass."""
    write(cases, "command: SET k:1 v, expect: allow")

    assert offline.run("test", cases, "--no-server", "--min-coverage", "nan").exit_code == 2


def test_server_with_keys_is_rejected(loaded: Cli, cases: Path) -> None:
    """The active policy of a server is never replaced by tests."""
    before = loaded.json("policy", "show")
    write(cases, "command: SET k:1 v, expect: allow")

    result = loaded.run("test", cases, "--server", loaded.url, "--yes")

    assert result.exit_code == 1
    assert "holds" in result.stderr
    assert loaded.json("policy", "show") == before


def test_unreachable_server_is_not_a_failed_test(offline: Cli, cases: Path) -> None:
    """The exit code differs, and the password is not printed."""
    write(cases, "command: SET k:1 v, expect: allow")

    result = offline.run("test", cases, "--yes", KEYLEASH_TEST_URL="redis://u:s3cret@127.0.0.1:1")

    assert result.exit_code == 69
    assert "s3cret" not in result.output
    typed = offline.run("test", cases, "--yes", "--server", "redis://u:s3cret@127.0.0.1:1")
    assert typed.exit_code == 2
    assert "s3cret" not in typed.output


def test_problems_of_all_files_are_reported_together(
    offline: Cli, cases: Path, tmp_path: Path
) -> None:
    """Each problem has its place, and no case runs."""
    other = tmp_path / "other.yaml"
    other.write_text("policy: policy.yaml\ncases: []\n")
    write(cases, "command: SET k:1 v, expect: allowed")

    result = offline.run("test", cases, other)

    assert result.exit_code == 65
    assert f"{cases}:3:49: unknown expectation `allowed`" in result.stderr
    assert f"{other}:2:8: `cases` is empty" in result.stderr
    assert "2 problems in the tests" in result.stderr


def test_unknown_identity_is_a_problem_of_the_test_file(offline: Cli, cases: Path) -> None:
    """Tests of a renamed identity fail instead of testing nothing."""
    cases.write_text("policy: policy.yaml\ncases: [{identity: on, command: PING, expect: allow}]\n")

    result = offline.run("test", cases)

    assert result.exit_code == 65
    assert f"{cases}:2:20: the policy has no identity `on`" in result.stderr
    assert "did you mean `one`?" in result.stderr


def test_problems_of_the_policy_are_reported_with_their_place(offline: Cli, cases: Path) -> None:
    """The report is that of `check`."""
    write(cases, "command: PING, expect: allow")
    (cases.parent / "policy.yaml").write_text("version: 2\n")

    result = offline.run("test", cases)

    assert result.exit_code == 65
    assert f"{cases.parent / 'policy.yaml'}:1:10: unknown version `2`" in result.stderr
    assert "in the policy" in result.stderr
