"""`keyleash check` and `keyleash compile`: no server is needed."""

from __future__ import annotations

import os
from pathlib import Path

from keyleash.policy.files import MAX_FILE_BYTES
from keyleash.store.keyspace import script_digest
from support.command_line import Cli

BROKEN = """\
version: 1
identities:
  agent:
    kind: robot
    grants: [{allow: [read], keys: ["a:*:b"]}]
"""

MASKED = """\
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [write], keys: ["a:*"]}]
    rate: {writes: 60/minute}
    budget: {writes: 5000/day}
    audit: {before_images: {max_bytes: 64kb}, mask_keys: ["a:*"]}
"""


def test_check_reports_every_problem_with_its_place_and_a_count(offline: Cli, policy: Path) -> None:
    """One run reports all problems, each with its place."""
    policy.write_text(BROKEN)

    result = offline.run("check", policy)

    assert result.exit_code == 65
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"{policy}:4:11: unknown kind `robot`")
    assert lines[1].startswith("  help: ")
    assert lines[2].startswith(f"{policy}:5:")
    assert lines[3].startswith("  help: ")
    assert lines[4:] == ["2 problems in the policy"]


def test_check_warns_of_before_images_that_masks_prevent(offline: Cli, policy: Path) -> None:
    """The file is valid, but changes of these keys cannot be undone."""
    policy.write_text(MASKED)

    result = offline.run("check", policy)

    assert result.exit_code == 0
    assert result.stderr.splitlines()[0].startswith(f"{policy}:8:13: warning: `before_images`")
    (warning,) = offline.json("check", policy)["warnings"]
    assert (warning["line"], warning["code"]) == (8, "masked-images")


IDLE_DENY = """\
version: 1
identities:
  agent:
    kind: machine
    grants: [{allow: [write], keys: ["a:50%:*"]}]
    deny: [{keys: ["b:50%"]}]
    budget: {writes: 5000/day}
    accept: {no-rate: "one run a day"}
"""


def test_check_warns_with_code_and_help(offline: Cli, policy: Path) -> None:
    """The code is used in the documentation and in `accept`."""
    policy.write_text(IDLE_DENY)

    result = offline.run("check", policy)

    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"{policy}:6:20: warning: no grant has a key in common with the denied pattern `b:50%`"
        " [idle-deny]",
        "  help: correct its spelling, or remove it: what no grant allows is denied anyway",
    ]
    assert "1 warning accepted: no-rate of agent" in result.stdout.splitlines()


def test_strict_check_of_a_clean_policy_passes(offline: Cli, example: Path) -> None:
    """An accepted finding is not a warning."""
    assert offline.run("check", example, "--strict").exit_code == 0


def test_check_as_json_has_accepted_findings_with_reasons(offline: Cli, policy: Path) -> None:
    """A review of a policy includes the reasons."""
    policy.write_text(IDLE_DENY)

    result = offline.json("check", policy)

    assert [item["code"] for item in result["warnings"]] == ["idle-deny"]
    (accepted,) = result["accepted"]
    assert (accepted["identity"], accepted["code"], accepted["reason"], accepted["line"]) == (
        "agent",
        "no-rate",
        "one run a day",
        3,
    )


def test_check_annotates_pull_requests(offline: Cli, tmp_path: Path) -> None:
    """Each finding is one escaped workflow command, beside the text for the log."""
    policy = tmp_path / "a,b:50%.yaml"
    policy.write_text(IDLE_DENY)
    name = str(policy).replace("%", "%25").replace(",", "%2C").replace(":", "%3A")

    result = offline.run("check", policy, "--format", "github")
    strict = offline.run("check", policy, "--format", "github", "--strict")

    annotation = (
        f" file={name},line=6,col=20,title=idle-deny::no grant has a key in common with the denied"
        " pattern `b:50%25`%0Ahelp: correct its spelling, or remove it: what no grant allows is"
        " denied anyway"
    )
    assert (result.exit_code, strict.exit_code) == (0, 65)
    assert result.stdout.splitlines()[0] == f"::warning{annotation}"
    assert strict.stdout.splitlines() == [f"::error{annotation}"]
    assert "[idle-deny]" in result.stderr


def test_check_reads_standard_input(offline: Cli, policy: Path, example: Path) -> None:
    """The output of a template engine can be checked through a pipe."""
    assert "<stdin> is valid" in offline.ok("check", "-", stdin=example.read_text())
    assert "<stdin>:4:11" in offline.run("check", "-", stdin=BROKEN).stderr


def test_mistake_that_is_repeated_is_shown_once(offline: Cli, policy: Path) -> None:
    """A thousand identities with one mistake are no two thousand lines."""
    item = "{kind: machine, grants: [{allow: [reed], keys: ['a:{n}']}], bugdet: 1}"
    policy.write_text(
        "version: 1\nidentities:\n" + "".join(f"  agent-{n}: {item}\n" for n in range(1000))
    )

    result = offline.run("check", policy)

    assert result.exit_code == 65
    assert result.stderr == (
        f"{policy}:3:46: unknown operation class `reed`\n"
        "  help: did you mean `read`?\n"
        "  the same at 999 other places, in lines 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 and 989 more\n"
        f"{policy}:3:72: unknown field `bugdet` in the identity `agent-0`\n"
        "  help: did you mean `budget`?\n"
        "  the same at 999 other places, in lines 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 and 989 more\n"
        "2000 problems in the policy\n"
    )


def test_file_that_never_ends_is_not_read(offline: Cli, tmp_path: Path, example: Path) -> None:
    """A device, a FIFO without a writer, and more than a policy can have."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(example.read_bytes() + b"#" * MAX_FILE_BYTES)
    for file in ("/dev/zero", tmp_path / "fifo"):
        result = offline.run("check", file)
        assert result.exit_code == 66
        assert f"cannot read `{file}`: it is not a regular file" in result.stderr
    for words, stdin in (((tmp_path / "large",), None), (("-",), "#" * (MAX_FILE_BYTES + 1))):
        result = offline.run("check", *words, stdin=stdin)
        assert f"it has more than {MAX_FILE_BYTES} bytes" in result.stderr


def test_file_that_is_not_utf8_is_a_bad_policy_with_the_place(offline: Cli, policy: Path) -> None:
    """The report has the byte and its place, since editors may hide it."""
    policy.write_bytes("version: 1\n# für ".encode() + b"\xff\n")

    result = offline.run("check", policy)

    assert result.exit_code == 65
    assert f"{policy}:2:7: the file is not UTF-8 text: it has the byte `\\xff`" in result.stderr


def test_compiled_script_on_standard_output_has_the_listed_digest(
    offline: Cli, example: Path
) -> None:
    """The printed script has the digest that EVALSHA uses."""
    script = offline.run("compile", example, "--identity", "agent-runner").stdout_bytes
    listed = offline.json("compile", example)["guards"][1]

    assert script_digest(script.decode()) == listed["digest"]
    assert len(script) == listed["bytes"]


def test_compile_to_a_directory_writes_one_script_per_identity(
    offline: Cli, example: Path, tmp_path: Path
) -> None:
    """The directory is created, and the files have the printed digests."""
    out = tmp_path / "build" / "guards"

    output = offline.ok("compile", example, "-o", out)

    for line in output.splitlines()[1:]:
        identity, digest, size = line.split()
        script = (out / f"{identity}.lua").read_bytes()
        assert script_digest(script.decode()) == digest
        assert len(script) == int(size)
    assert len(list(out.iterdir())) == 4


def test_compile_as_json_has_the_script_of_a_named_identity(offline: Cli, example: Path) -> None:
    """The list of all identities has no scripts."""
    (only,) = offline.json("compile", example, "--identity", "agent-reader")["guards"]
    every = offline.json("compile", example)["guards"]

    assert script_digest(only["script"]) == only["digest"]
    assert all(set(item) == {"identity", "digest", "bytes", "file"} for item in every)
