"""`keyleash plan`: output, exit codes and read-only operation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from keyleash.errors import RemovalError
from keyleash.store.store import Store
from support.command_line import Cli
from support.loading import load_policy
from support.servers import RealServer
from support.terminals import on_a_terminal, read_until


def changed(example: Path, policy: Path, *pairs: tuple[str, str]) -> Path:
    """Write the example with replacements to a file."""
    text = example.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    policy.write_text(text)
    return policy


def dump(server: RealServer) -> dict[bytes, bytes]:
    """Return all keys of a server, serialized."""
    client: Any = server.client()
    return {key: client.dump(key) for key in client.scan_iter()}


def test_plan_of_another_policy_succeeds_and_writes_nothing(
    server: RealServer, example: Path, policy: Path
) -> None:
    """The plan only reads, on every supported server; `--exit-code` reports changes by 2."""
    cli = Cli(server.url)
    cli.ok("load", example, "--yes")
    before = dump(server)
    file = changed(example, policy, ("3000/minute", "4000/minute"))

    result = cli.run("plan", file)

    assert result.exit_code == 0
    assert cli.run("plan", file, "--exit-code").exit_code == 2
    lines = result.stdout.splitlines()
    assert "~ agent-reader (machine)   [widens]" in lines
    assert "    ~ rate.requests 3000 a minute → 4000 a minute   [widens]" in lines
    assert "0 new, 1 changed, 0 removed, 3 unchanged" in lines
    assert lines[-1] == "widens access: `agent-reader`"
    assert dump(server) == before


def test_plan_without_a_policy_shows_every_identity_as_new(cli: Cli, example: Path) -> None:
    """A first load can be reviewed like any other."""
    result = cli.run("plan", example)

    assert result.exit_code == 0
    assert "active     none" in result.stdout
    assert "4 new, 0 changed, 0 removed, 0 unchanged" in result.stdout


def test_plan_marks_rules_that_widen_and_shows_example_calls(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """Removing a deny rule widens only if a grant matches its keys."""
    file = changed(
        example,
        policy,
        ('    deny: [{keys: ["agents:jobs:{job_id}:lock"]}]\n', ""),
        ("agents:context:*", "agents:*"),
        ("writes: 60/minute", "writes: 30/minute"),
    )

    lines = loaded.run("plan", file).stdout.splitlines()

    assert "    ~ grant    read on `agents:context:*`" in lines
    assert "             → read on `agents:*`   [widens]" in lines
    assert any(line.startswith("        GET `agents:`, and ") for line in lines)
    assert "    - deny     `agents:jobs:{job_id}:lock`" in lines
    assert "~ agent-recovery (machine)   [narrows]" in lines
    assert lines[-1] == "widens access: `agent-reader`"


def test_plan_as_json_is_exact(loaded: Cli, example: Path, policy: Path) -> None:
    """JSON has the whole rules and every gained command with a call."""
    file = changed(
        example,
        policy,
        ('allow: [read], keys: ["agents:c', 'allow: [read, delete], keys: ["agents:c'),
    )

    plan = loaded.json("plan", file)

    assert plan["changes"] is True
    assert plan["widens"] is True
    assert plan["unchanged"] == ["agent-runner", "agent-recovery", "human-admin"]
    (identity,) = plan["identities"]
    (change,) = identity["changes"]
    assert (change["rule"], change["action"], change["widens"]) == ("grant", "change", True)
    assert change["before"] == {"allow": ["read"], "keys": ["agents:context:*"]}
    assert change["after"]["allow"] == ["read", "delete"]
    by_needs = {
        json.dumps([item["needs"] for item in gain["keys"]]): gain for gain in identity["gains"]
    }
    assert "DEL" in by_needs['[["delete"]]']["commands"]
    assert by_needs['[["delete"]]']["keys"][0]["key"].startswith("agents:context:")
    assert "LPOP" in by_needs['[["read", "delete"]]']["commands"]
    assert identity["losses"] == []


def test_plan_lists_guards_to_recompile_without_rule_changes(
    loaded: Cli, example: Path, embedded: RealServer
) -> None:
    """A load restores deleted records, so there is something to do."""
    client: Any = embedded.client()
    client.delete("keyleash:guard:agent-runner")

    result = loaded.run("plan", example, "--exit-code")

    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert "1 guard recompiled with the same rules: `agent-runner`" in lines
    assert loaded.json("plan", example)["recompiled"] == ["agent-runner"]
    loaded.ok("load", example, "--yes")
    assert loaded.run("plan", example, "--exit-code").exit_code == 0


def test_plan_of_a_reformatted_policy_changes_nothing(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """Comments and formatting are not part of a policy."""
    file = changed(example, policy, ("identities:\n", "# a remark\nidentities:\n"))

    assert loaded.run("plan", file).exit_code == 0


NARROWED = """\
version: 1
identities:
  one: {{kind: machine, grants: [{{allow: [{allow}], keys: ["k:*"]{narrowed}}}]}}
"""


@pytest.mark.parametrize(
    ("narrowed", "gained"), [("", "INCR `k:`, and "), (", only: [SET]", "SET `k:` … GET")]
)
def test_plan_shows_only_calls_that_were_denied_before(
    cli: Cli, policy: Path, narrowed: str, gained: str
) -> None:
    """An identity that may write and now also read could SET before; SET … GET is new."""
    policy.write_text(NARROWED.format(allow="write", narrowed=narrowed))
    cli.ok("load", policy, "--yes")
    policy.write_text(NARROWED.format(allow="read, write", narrowed=narrowed))

    lines = cli.run("plan", policy).stdout.splitlines()

    calls = [line.strip() for line in lines if line.startswith(" " * 8)]
    assert any(call.startswith(gained) for call in calls)
    assert not any(call.startswith("SET `k:`, ") or call == "SET `k:`" for call in calls)


def test_plan_lists_identities_with_missing_counters(
    loaded: Cli, example: Path, embedded: RealServer
) -> None:
    """A load writes a new state, so the limits of the identity start at 0."""
    client: Any = embedded.client()
    client.delete("keyleash:state:agent-runner")

    result = loaded.run("plan", example)

    assert result.exit_code == 0
    note = "note: limit counters are missing on the server, and start at 0: "
    assert f"{note}`agent-runner`" in result.stdout.splitlines()
    assert loaded.json("plan", example)["counters_lost"] == ["agent-runner"]


def test_last_line_of_a_plan_names_ten_identities(cli: Cli, policy: Path) -> None:
    """A thousand names would hide the verdict."""
    names = [f"agent-{number}" for number in range(12)]
    policy.write_text(
        "version: 1\nidentities:\n"
        + "".join(
            f"  {name}: {{kind: machine, grants: [{{allow: [read], keys: ['{name}']}}]}}\n"
            for name in names
        )
    )

    last = cli.run("plan", policy).stdout.splitlines()[-1]

    assert last == f"widens access: {', '.join(f'`{item}`' for item in names[:10])} and 2 more"


def test_load_after_loss_of_the_active_policy_needs_allow_widening(
    loaded: Cli, example: Path, embedded: RealServer
) -> None:
    """The earlier access is unknown, so the new policy may exceed it."""
    client: Any = embedded.client()
    client.delete("keyleash:policy")

    result = loaded.run("load", example, "--yes")

    assert result.exit_code == 1
    note = "note: the record of the active policy is missing; all identities count as new"
    assert note in result.stderr.splitlines()
    loaded.ok("load", example, "--yes", "--allow-widening")


def many(policy: Path, count: int, keys: str) -> Path:
    """Write a policy of *count* identities; `{n}` in *keys* is their number."""
    lines = ["version: 1", "identities:"]
    for number in range(count):
        grant = keys.replace("{n}", str(number))
        lines += [f"  agent-{number:03}:", "    kind: machine"]
        lines += [f"    grants: [{{allow: [read], keys: [{grant!r}]}}]"]
    policy.write_text("\n".join(lines) + "\n")
    return policy


def test_plan_shows_identities_with_the_same_changes_together(cli: Cli, policy: Path) -> None:
    """`--full` and `--json` list each identity."""
    file = many(policy, 60, "shared:*")

    folded = cli.run("plan", file).stdout.splitlines()
    full = cli.run("plan", file, "--full").stdout.splitlines()

    names = ", ".join(f"agent-{number:03}" for number in range(10))
    assert [line for line in folded if line.startswith("+")] == [
        f"+ {names} and 50 more (machine)   [widens]"
    ]
    assert sum("grant    read on `shared:*`" in line for line in folded) == 1
    assert sum(line.startswith("+ agent-") for line in full) == 60
    assert sum("grant    read on `shared:*`" in line for line in full) == 60
    assert len(cli.json("plan", file)["identities"]) == 60


def test_plan_of_many_different_changes_is_a_summary(cli: Cli, policy: Path) -> None:
    """More than fifty blocks are summarized."""
    shown = cli.run("plan", many(policy, 50, "own:{n}:*")).stdout
    summary = cli.run("plan", many(policy, 51, "own:{n}:*")).stdout
    full = cli.run("plan", policy, "--full").stdout

    assert shown.count("grant    read on") == full.count("grant    read on") - 1 == 50
    assert "grant" not in summary
    assert "agent-009 and 41 more (machine)   [widens]" in summary
    assert "`--full` shows every change" in summary
    assert "51 new, 0 changed, 0 removed, 0 unchanged" in summary


def test_summary_has_a_line_for_each_common_change(cli: Cli, policy: Path) -> None:
    """A list of names and `[narrows]` does not show which rule is narrower."""

    def write(rate: int) -> None:
        policy.write_text(
            "version: 1\nidentities:\n"
            + "".join(
                f"  agent-{number:03}:\n    kind: machine\n"
                f'    grants: [{{allow: [read], keys: ["own:{number}:*", "{rate}:{number}"]}}]\n'
                f"    rate: {{reads: {rate}/minute}}\n"
                for number in range(60)
            )
        )

    write(600)
    cli.ok("load", policy, "--yes")
    write(500)
    shown = cli.run("plan", policy).stdout

    assert "agent-009 and 50 more (machine)" in shown
    lines = [line.split("   [")[0] for line in shown.splitlines() if "→" in line]
    assert [" ".join(line.split()) for line in lines] == [
        "~ rate.reads 600 a minute → 500 a minute (60 identities)"
    ]


def test_settings_of_a_new_identity_are_additions(cli: Cli, policy: Path) -> None:
    """It had no default before."""
    text = many(policy, 1, "own:{n}:*").read_text()
    images = "{before_images: {max_bytes: 64kb}}"
    rules = f"{{kind: machine, grants: [{{allow: [read], keys: ['n:*']}}], audit: {images}}}"
    policy.write_text(text)
    cli.ok("load", policy, "--yes")
    policy.write_text(f"{text.rstrip()}\n  newcomer: {rules}\n")

    lines = cli.run("plan", policy).stdout.splitlines()

    (line,) = [line for line in lines if "audit.before_images" in line]
    assert line.split()[:2] == ["+", "audit.before_images"]


def test_load_that_removes_needs_allow_removal(cli: Cli, policy: Path) -> None:
    """A truncated file may be a valid policy with fewer identities."""
    cli.ok("load", many(policy, 100, "own:{n}:*"), "--yes")
    token = cli.token("agent-099")
    many(policy, 1, "own:{n}:*")

    denied = cli.run("load", policy, "--yes", "--allow-widening")
    error = cli.json("load", policy, "--yes", exit_code=1)["error"]

    names = ", ".join(f"agent-{number:03}" for number in range(1, 6))
    assert denied.exit_code == 1
    assert denied.stderr.endswith(
        f"error: `{policy}` removes 99 identities: {names} and 94 more\n"
        f"help: see `keyleash plan {policy}` first, then pass `--allow-removal`\n"
    )
    assert error["code"] == "removes"
    assert cli.json("status")["policy"]["generation"] == 1
    cli.ok("exec", "GET", "own:99:x", KEYLEASH_TOKEN=token)
    result = cli.json("load", policy, "--yes", "--allow-removal")
    assert len(result["removed"]) == 99
    assert cli.run("exec", "GET", "own:99:x", KEYLEASH_TOKEN=token).exit_code == 1


def test_consent_on_a_terminal_includes_the_removal(cli: Cli, policy: Path) -> None:
    """The question names it, so no option is needed."""
    cli.ok("load", many(policy, 2, "own:{n}:*"), "--yes")
    many(policy, 1, "own:{n}:*")

    with on_a_terminal(cli, "load", policy) as (process, terminal):
        read_until(terminal, "activate, and remove 1 identity?")
        os.write(terminal, b"y\n")
        assert process.wait(60) == 0
    assert [item["name"] for item in cli.json("status")["identities"]] == ["agent-000"]


def test_library_load_that_removes_needs_consent(embedded: RealServer, policy: Path) -> None:
    """A program passes `allow_removal`, since it cannot be asked."""
    client = embedded.client()
    load_policy(Store(client), many(policy, 3, "own:{n}:*").read_text())
    rest = many(policy, 1, "own:{n}:*").read_text()

    with pytest.raises(RemovalError, match="`<policy>` removes 2 identities") as removal:
        load_policy(Store(client), rest)
    assert removal.value.identities == ("agent-001", "agent-002")
    assert client.hget("keyleash:policy", "generation") == b"1"
    assert load_policy(Store(client), rest, allow_removal=True).removed == (
        "agent-001",
        "agent-002",
    )
