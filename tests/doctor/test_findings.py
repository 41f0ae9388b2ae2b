"""`keyleash doctor` finds each problem by its code, and no other."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from doctor.targets import NAMES, OPS, POLICY, DoctorTarget
from keyleash.addons.doctor.checks import records
from keyleash.addons.doctor.findings import CODES
from keyleash.operator.load.checks import RESTORE_CODE
from support.command_line import Cli
from support.replication import wait_until
from support.servers import RealServer, embedded_label

Problem = Callable[[DoctorTarget], Any]


def digest(target: DoctorTarget) -> str:
    found: bytes = target.admin.hget(NAMES.guard("one"), "digest")
    return found.decode()


def failed_snapshot(target: DoctorTarget) -> None:
    assert target.server.data is not None
    shutil.rmtree(target.server.data)
    target.admin.bgsave()
    wait_until(lambda: target.admin.info("persistence")["rdb_last_bgsave_status"] == "err")


def open_default(target: DoctorTarget) -> None:
    target.admin.execute_command("ACL", "SETUSER", "default", "on", "nopass", "~*", "+@all")


PROBLEMS: dict[str, Problem] = {
    "eviction": lambda item: item.admin.config_set("maxmemory-policy", "allkeys-lru"),
    "memory-full": lambda item: item.admin.config_set("maxmemory", 1024),
    "no-persistence": lambda item: item.admin.config_set("appendonly", "no"),
    "snapshots-only": lambda item: (
        item.admin.config_set("appendonly", "no"),
        item.admin.config_set("save", "3600 1"),
    ),
    "no-fsync": lambda item: item.admin.config_set("appendfsync", "no"),
    "open-default-user": open_default,
    "no-policy": lambda item: item.admin.delete(NAMES.policy),
    "command-denied": lambda item: item.admin.execute_command(
        "ACL", "SETUSER", OPS, "-script|load"
    ),
    "no-guard": lambda item: item.admin.delete(NAMES.guard("one")),
    "guard-differs": lambda item: item.admin.hset(NAMES.guard("one"), "commands", "{}"),
    "no-layout": lambda item: item.admin.hdel(NAMES.layouts, "one"),
    "no-state": lambda item: item.admin.delete(NAMES.state("one")),
    "stale-state": lambda item: item.admin.setrange(NAMES.state("one"), 0, struct.pack("<d", 1)),
    "script-not-loaded": lambda item: item.admin.script_flush(),
    "script-without-text": lambda item: item.admin.hdel(NAMES.source("one"), digest(item)),
    "fences-gone": lambda item: item.admin.hset(NAMES.fence, "one", "{}"),
    "too-few-replicas": lambda item: item.with_policy(
        POLICY.replace("kind: machine", "kind: machine\n    durability: {wait_replicas: 2}", 1)
    ),
    "unreadable": lambda item: item.admin.hdel(NAMES.guard("one"), "generation"),
}
ADVICE: dict[str, Problem] = {
    "unbounded-output-buffers": lambda item: item.admin.config_set(
        "client-output-buffer-limit", "normal 0 0 60"
    ),
    "unbounded-client-memory": lambda item: item.admin.config_set("maxmemory-clients", 0),
    "large-bulk-length": lambda item: item.admin.config_set("proto-max-bulk-len", "512mb"),
    "deletes-at-once": lambda item: item.admin.config_set("lazyfree-lazy-expire", "no"),
}
"""Findings that leave the exit code 0."""
ELSEWHERE = {
    RESTORE_CODE,
    "persistence-failing",
    "clock-differs",
    "unreachable",
    "several-primaries",
    "replica-unlinked",
    "replica-lagging",
    "policy-behind",
    "slots-not-served",
    "undeclared-keys",
}


def test_every_code_is_found_by_some_test() -> None:
    """A check that never fails in a test may be unable to fail."""
    assert sorted([*PROBLEMS, *ADVICE, *ELSEWHERE]) == sorted(CODES)


def test_healthy_server_has_no_finding(target: DoctorTarget) -> None:
    """Exit code 0."""
    result = target.cli.run("doctor")

    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "1 server: no finding\n"
    assert target.found(exit_code=0) == []


@pytest.mark.parametrize(("code", "problem"), PROBLEMS.items(), ids=PROBLEMS)
def test_problem_has_one_finding_with_help(
    target: DoctorTarget, code: str, problem: Problem
) -> None:
    """Exit code 1."""
    problem(target)
    found = target.found()

    assert [item["code"] for item in found] == [code]
    assert found[0]["help"]


@pytest.mark.parametrize(("code", "setting"), ADVICE.items(), ids=ADVICE)
def test_advice_is_reported_with_exit_code_0(
    target: DoctorTarget, code: str, setting: Problem
) -> None:
    """One missing limit is advice while the others apply."""
    setting(target)
    [found] = target.found(exit_code=0)

    assert (found["code"], found["severity"]) == (code, "advice")
    assert found["help"].startswith(("set `", "`CONFIG SET lazyfree-lazy-expire yes`"))


def test_connections_without_any_memory_limit_are_a_warning(target: DoctorTarget) -> None:
    """Unread replies would fill the memory. A percentage needs `maxmemory`."""
    target.admin.config_set("client-output-buffer-limit", "normal 0 0 0")
    target.admin.config_set("maxmemory-clients", "10%")
    unbounded = [(item["code"], item["severity"]) for item in target.found()]
    target.admin.config_set("maxmemory", "1gb")
    bounded = [(item["code"], item["severity"]) for item in target.found(exit_code=0)]

    assert unbounded == [
        ("unbounded-output-buffers", "warning"),
        ("unbounded-client-memory", "warning"),
    ]
    assert bounded == [("unbounded-output-buffers", "advice")]


def test_argument_length_is_compared_with_the_policy(target: DoctorTarget) -> None:
    """A policy that allows longer strings needs longer arguments."""
    target.admin.config_set("proto-max-bulk-len", "100mb")
    [found] = target.found(exit_code=0)
    target.with_policy(
        POLICY.replace('keys: ["a:{id}"]', 'keys: ["a:{id}"], values: {max_bytes: 100mb}'),
        "--allow-widening",
    )

    assert "arguments of 100 MiB, and guards allow strings of 16 MiB" in found["message"]
    assert target.found(exit_code=0) == []


def test_soft_limit_alone_bounds_output_buffers(target: DoctorTarget) -> None:
    """A client that exceeds it for too long is disconnected as well."""
    target.admin.config_set("client-output-buffer-limit", "normal 0 64mb 60")

    assert target.found(exit_code=0) == []


def test_unvalidated_payloads_are_an_error_if_an_identity_may_restore(
    server: RealServer, tmp_path: Path
) -> None:
    """Otherwise they are no finding; Valkey 9.1 always validates."""
    restores = "\n      - {allow: [write], keys: ['a:{id}'], only: [RESTORE]}"
    cli, file = Cli(server.url), tmp_path / "policy.yaml"
    severities = []
    for grants in ("", restores):
        first = "\n      - {allow: [read, write], keys: ['a:{id}']}"
        file.write_text(
            "version: 1\nidentities:\n  one:\n    kind: machine\n    grants:" + first + grants
        )
        cli.ok("load", file, "--yes", "--allow-widening", "--allow-unvalidated-restore")
        found = cli.json("doctor", exit_code=1)["findings"]
        severities += [item["severity"] for item in found if item["code"] == "unvalidated-restore"]

    validates = server.label == embedded_label()
    assert severities == ([] if validates else ["error"])


def test_accepted_finding_is_shown_and_leaves_the_exit_code_0(target: DoctorTarget) -> None:
    """Only findings with this code are accepted."""
    target.admin.config_set("appendfsync", "no")
    open_default(target)
    assert target.codes("--accept", "no-fsync") == ["open-default-user"]

    accepted = ("--accept", "no-fsync", "--accept", "open-default-user", "--accept", "no-guard")
    document = target.cli.json("doctor", *accepted)
    text = target.cli.run("doctor", *accepted)

    assert document["findings"] == []
    assert [item["code"] for item in document["accepted"]] == ["no-fsync", "open-default-user"]
    first, second = text.stdout.splitlines()
    assert first.startswith(f"{target.node}: accepted: with `appendfsync no` a crash")
    assert second.endswith(" [open-default-user]")
    assert (text.exit_code, text.stderr) == (0, "1 server: no finding, 2 accepted\n")


@pytest.mark.parametrize("code", ["no-fsyncs", "warning", "error", "all", "*", "", "NO-FSYNC"])
def test_unknown_code_cannot_be_accepted(code: str) -> None:
    """Nor can a severity, or all codes; the server is not contacted."""
    result = Cli("redis://127.0.0.1:1").run("doctor", "--accept", code)

    assert result.exit_code == 2
    assert f"error: no doctor finding has the code `{code}`" in result.stderr
    assert all(f"`{item}`" in result.stderr for item in CODES)


def test_findings_are_accepted_in_the_configuration_file(
    target: DoctorTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keyleash.toml` in the working directory, or the file in KEYLEASH_CONFIG."""
    target.admin.config_set("appendfsync", "no")
    here, elsewhere = tmp_path / "keyleash.toml", tmp_path / "other.toml"
    here.write_text('[doctor]\naccept = ["no-fsync"]  # a cache, which may lose a minute\n')
    elsewhere.write_text('doctor.accept = ["eviction"]\n')

    assert target.codes() == ["no-fsync"]
    monkeypatch.chdir(tmp_path)
    assert target.cli.json("doctor")["accepted"][0]["code"] == "no-fsync"
    named = target.cli.json("doctor", exit_code=1, KEYLEASH_CONFIG=str(elsewhere))
    assert [item["code"] for item in named["findings"]] == ["no-fsync"]
    both = ("--accept", "no-fsync")
    assert target.cli.run("doctor", *both, KEYLEASH_CONFIG=str(elsewhere)).exit_code == 0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[doctor", "is not TOML"),
        ("\x80", "is not TOML"),
        ('[doctors]\naccept = ["no-fsync"]', "no other setting"),
        ('[doctor]\naccepts = ["no-fsync"]', "no other setting"),
        ('doctor = "no-fsync"', "no other setting"),
        ('[doctor]\naccept = "no-fsync"', "no other setting"),
        ("[doctor]\naccept = [1]", "something else than strings"),
        ('[doctor]\naccept = ["no-fsyncs"]', "no doctor finding has the code `no-fsyncs`"),
    ],
)
def test_configuration_file_with_a_mistake_is_a_usage_error(
    tmp_path: Path, content: str, problem: str
) -> None:
    """A misspelt setting would silently accept nothing."""
    file = tmp_path / "keyleash.toml"
    file.write_bytes(content.encode("latin-1"))
    result = Cli("redis://127.0.0.1:1").run("doctor", KEYLEASH_CONFIG=str(file))

    assert result.exit_code == 2
    assert problem in result.stderr
    assert f"the configuration file `{str(file)[:40]}" in result.stderr


def test_missing_configuration_file_is_an_error() -> None:
    """Its accepted findings would otherwise reappear."""
    result = Cli("redis://127.0.0.1:1").run("doctor", KEYLEASH_CONFIG="/nowhere.toml")

    assert result.exit_code == 66
    assert "cannot read `/nowhere.toml`" in result.stderr


def test_concurrent_load_is_no_finding(
    target: DoctorTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks that see records of two policies are repeated."""
    looks: list[object] = []
    check = records.check_scripts

    def load_first(*arguments: Any) -> Any:
        if not looks:
            target.with_policy(
                POLICY.replace("two:", "three:"), "--allow-widening", "--allow-removal"
            )
        looks.append(arguments)
        return check(*arguments)

    monkeypatch.setattr(records, "check_scripts", load_first)

    assert target.found(exit_code=0) == []
    assert len(looks) == 2


def test_failed_snapshot_is_found(target: DoctorTarget) -> None:
    """A full disk is reported before writes are denied, and when they are, PING included."""
    failed_snapshot(target)

    assert target.codes() == ["persistence-failing"]
    for name, value in (("appendonly", "no"), ("save", "3600 1")):
        target.admin.config_set(name, value)
    with pytest.raises(ResponseError, match="MISCONF"):
        target.admin.ping()
    assert target.codes() == ["persistence-failing", "snapshots-only"]


def test_eviction_is_an_error_with_maxmemory(target: DoctorTarget) -> None:
    """Without `maxmemory` nothing is evicted."""
    target.admin.config_set("maxmemory-policy", "volatile-lru")
    (before,) = target.found()
    target.admin.config_set("maxmemory", "1gb")
    (after,) = target.found()

    assert (before["severity"], after["severity"]) == ("warning", "error")


def test_nearly_full_memory_is_a_warning(target: DoctorTarget) -> None:
    """Nothing is reported below that."""
    used = target.admin.info("memory")["used_memory"]
    target.admin.config_set("maxmemory", 2 * used)
    assert target.found(exit_code=0) == []
    target.admin.config_set("maxmemory", used * 109 // 100)
    (finding,) = target.found()

    assert (finding["code"], finding["severity"]) == ("memory-full", "warning")


def test_truncated_state_is_found_as_missing(target: DoctorTarget) -> None:
    """The guard denies calls on it as well."""
    state = target.admin.get(NAMES.state("one"))
    target.admin.set(NAMES.state("one"), state[:16])

    assert target.codes() == ["no-state"]


def test_text_names_server_severity_code_and_help(target: DoctorTarget) -> None:
    """In the format of lint."""
    target.admin.script_flush()
    result = target.cli.run("doctor")

    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first.startswith(f"{target.node}: error: guards are not loaded: `one`, `two`; ")
    assert first.endswith(" [script-not-loaded]")
    assert second.startswith("  help: load the active policy again")
    assert result.stderr == "1 server: 1 error\n"


def test_errors_are_the_first_findings(target: DoctorTarget) -> None:
    """Then warnings, then advice."""
    target.admin.config_set("proto-max-bulk-len", "512mb")
    target.admin.config_set("appendfsync", "no")
    target.admin.delete(NAMES.state("one"))

    severities = [item["severity"] for item in target.found()]

    assert severities == ["error", "warning", "advice"]


def test_summary_counts_findings_by_severity(target: DoctorTarget) -> None:
    """Advice does not change the exit code."""
    target.admin.config_set("client-output-buffer-limit", "normal 0 0 0")
    target.admin.config_set("maxmemory-clients", "0")
    target.admin.config_set("proto-max-bulk-len", "512mb")

    assert target.cli.run("doctor").stderr == "1 server: 2 warnings, 1 advice\n"


def test_doctor_changes_nothing(target: DoctorTarget) -> None:
    """Not even what it could repair."""
    target.admin.script_flush()
    before = target.admin.info("persistence")["rdb_changes_since_last_save"]
    target.codes()

    assert target.codes() == ["script-not-loaded"]
    assert target.admin.info("persistence")["rdb_changes_since_last_save"] == before


def test_unreachable_first_server_is_an_error() -> None:
    """Exit code 69, as for every command."""
    assert Cli("redis://127.0.0.1:1").run("doctor").exit_code == 69


def test_password_of_a_node_on_the_command_line_is_an_error(target: DoctorTarget) -> None:
    """The error does not repeat it."""
    result = target.cli.run("doctor", "--node", "redis://ops:secret@127.0.0.1:6379")

    assert result.exit_code == 2
    assert "secret" not in result.output
