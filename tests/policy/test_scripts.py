"""`scripts` of a policy: files, bundles, and the stored document."""

from __future__ import annotations

import json
import os
import re
import sys
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
from tools.bundle_versions import bundle_report, names_version

from keyleash.commands import load_table
from keyleash.errors import OperationError, PolicyError
from keyleash.policy import Policy, bundles, parse_policy, scripts
from keyleash.policy.bundles import BUNDLES, Bundle, sha1_of
from keyleash.policy.diff.compare import diff_policies
from keyleash.policy.diff.diff_text import describe_identities
from keyleash.policy.lint import lint
from keyleash.policy.lint.grant_rules import script_builds_keys
from keyleash.policy.scripts import stored_texts, with_texts
from support.node import NODE_MODULES


def document(names: list[str], files: dict[str, str] | None = None) -> str:
    """Return a document whose only grant names scripts."""
    grant = {"allow": ["read", "write"], "keys": ["app:*"], "scripts": names}
    known = {name: {"file": file} for name, file in (files or {}).items()}
    identities = {"one": {"kind": "machine", "grants": [grant]}}
    return json.dumps({"version": 1, "scripts": known, "identities": identities}, indent=1)


def parsed(text: str, folder: Path) -> Policy:
    return parse_policy(text, file=str(folder / "policy.yaml"), commands=load_table())


def problem_of(text: str, folder: Path) -> tuple[str, str, str]:
    with pytest.raises(PolicyError) as caught:
        parsed(text, folder)
    (problem,) = caught.value.problems
    assert problem.span.file.endswith("policy.yaml")
    return problem.code, problem.message, problem.help


def test_file_is_relative_to_the_folder_of_the_policy(tmp_path: Path) -> None:
    (tmp_path / "lua").mkdir()
    (tmp_path / "lua" / "a.lua").write_bytes(b"return '\xff'")
    (script,) = parsed(document(["a"], {"a": "lua/a.lua"}), tmp_path).identities[0].scripts

    assert (script.name, script.digest) == ("a", sha1(b"return '\xff'").hexdigest())  # noqa: S324


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("x = 1", "script-unknown-global", "`a.lua:1:1`: an approved script has no global `x`"),
        ("return\n  (", "script-syntax", "`a.lua:2:4`: unexpected the end of the text"),
        (None, "script-file", "cannot read `{folder}/a.lua`: no such file or directory"),
    ],
)
def test_text_with_a_problem_is_a_problem_of_the_policy(
    tmp_path: Path, text: str | None, code: str, message: str
) -> None:
    """With file, line and column of the text, at the place of its file in the policy."""
    if text is not None:
        (tmp_path / "a.lua").write_text(text)
    found = problem_of(document(["a"], {"a": "a.lua"}), tmp_path)

    assert found[:2] == (code, message.format(folder=tmp_path))


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("/dev/zero", "it is not a regular file"),
        ("fifo", "it is not a regular file"),
        ("large.lua", "it has more than 65536 bytes"),
    ],
)
def test_file_of_a_script_that_never_ends_is_a_problem(
    tmp_path: Path, file: str, reason: str
) -> None:
    """It is not read: its author may not be who checks the policy."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large.lua").write_bytes(b" " * (1 << 20))
    code, message, _ = problem_of(document(["a"], {"a": file}), tmp_path)

    assert (code, message) == ("script-file", f"cannot read `{tmp_path / file}`: {reason}")


def test_missing_file_is_reported_with_the_path_that_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is absolute, and the help says what it is relative to."""
    monkeypatch.chdir(tmp_path)
    code, message, help = problem_of(document(["a"], {"a": "../lua/a.lua"}), Path("policies"))

    expected = f"cannot read `{tmp_path}/lua/a.lua`: no such file or directory"
    assert (code, message) == ("script-file", expected)
    assert help == "write a path relative to the folder of the policy, or an absolute path"


def test_path_in_a_home_folder_is_rejected_with_a_hint(tmp_path: Path) -> None:
    """No part of a policy is expanded, so that it means the same to all who load it."""
    assert "`~` is not expanded" in problem_of(document(["a"], {"a": "~/a.lua"}), tmp_path)[2]


def test_calls_that_fail_are_found_with_their_reasons(tmp_path: Path) -> None:
    """A finding says of each call why no grant makes it work."""
    (tmp_path / "a.lua").write_text("redis.setresp(3)\nredis.call('INFO')\nredis.call('NO')")
    found = lint(parsed(document(["a"], {"a": "a.lua"}), tmp_path)).warnings

    (message,) = (item.message for item in found if item.code == "script-cannot-work")
    assert message == (
        "the script `a.lua` makes calls that fail: `redis.setresp(3)` at 1:7 (guards run scripts"
        " under RESP2), `INFO` at 2:12 (it describes the whole server), `NO` at 3:12"
        " (no server that keyleash knows has it)"
    )


def test_unknown_script_of_a_grant_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.lua").write_text("return 1")
    code, message, help = problem_of(document(["take"], {"tak": "a.lua"}), tmp_path)

    assert (code, message) == ("unknown-script", "unknown script `take`")
    assert help == "did you mean `tak`?"


def test_stored_document_is_read_without_its_files(tmp_path: Path) -> None:
    """Comments that have the texts are added once, and the digest stays."""
    file = tmp_path / "a.lua"
    file.write_bytes(b"return '\xff'\n-- \xc3\xa9")
    text = document(["a", "redis-py-lock"], {"a": "a.lua"})
    policy = parsed(text, tmp_path)
    stored = with_texts(text, policy)
    file.unlink()

    again = parsed(stored, tmp_path)
    assert again == policy
    assert with_texts(stored, again) == stored
    assert list(stored_texts(stored)) == ["a.lua"]


LOOKALIKE = '#script ["a.lua", "return 2"]'


@pytest.mark.parametrize("before", ["", "# x\u2028", "# x\u0085", "# x\u2029", "# x\x0b"])
def test_comment_of_a_file_that_has_another_text_of_a_script_is_an_error(
    tmp_path: Path, before: str
) -> None:
    """It does not replace the file that was reviewed, wherever its author hides it."""
    (tmp_path / "a.lua").write_text("return 1")
    text = f"{document(['a'], {'a': 'a.lua'})}\n{before}{LOOKALIKE}\n"
    if before:
        (script,) = parsed(text.replace("\x0b", " "), tmp_path).identities[0].scripts
        assert script.source == "return 1"
        return

    with pytest.raises(PolicyError) as caught:
        parsed(text, tmp_path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.span.line, problem.span.column) == (
        "script-comment",
        text.count("\n"),
        1,
    )
    assert problem.message == "the text of `a.lua` in this comment differs from the file"
    (tmp_path / "a.lua").write_text("return 2")
    assert parsed(text, tmp_path).identities[0].scripts[0].source == "return 2"
    (tmp_path / "a.lua").unlink()
    assert problem_of(text, tmp_path)[0] == "script-file"


def test_comment_behind_another_end_of_line_does_not_reach_the_stored_document(
    tmp_path: Path,
) -> None:
    """The stored text is that of the file, and the comment stays a comment."""
    (tmp_path / "a.lua").write_text("return 1")
    text = f"{document(['a'], {'a': 'a.lua'})}\n# x\u2028{LOOKALIKE}\n"

    stored = with_texts(text, parsed(text, tmp_path))
    assert stored_texts(stored) == {"a.lua": "return 1"}
    assert stored.startswith(text)
    assert with_texts(stored, parsed(stored, tmp_path)) == stored


def test_comment_of_a_file_does_not_replace_a_text_of_a_bundle(tmp_path: Path, bundle: str) -> None:
    """The texts are those that keyleash knows by their digests."""
    comment = json.dumps(["queues_of_tests:TEXT", "return 2"])
    policy = parsed(f"{document([bundle])}\n#script {comment}\n", tmp_path)

    assert {script.source for script in policy.identities[0].scripts} == {
        "return 1",
        "return redis.call('GET', KEYS[1])",
    }


def test_document_without_scripts_is_stored_as_it_is(tmp_path: Path) -> None:
    text = document(["redis-py-lock"])
    assert with_texts(text, parsed(text, tmp_path)) == text


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a bundle of an installed library with a module and a file."""
    package = tmp_path / "queues_of_tests"
    package.mkdir()
    (package / "__init__.py").write_text("TEXT = 'return 1'\n")
    (package / "b.lua").write_text("return redis.call('GET', KEYS[1])")
    texts = {"TEXT": b"return 1", "b.lua": b"return redis.call('GET', KEYS[1])"}
    digests = {name: sha1(text).hexdigest() for name, text in texts.items()}  # noqa: S324
    known = {"queues": Bundle("1.2", {"queues_of_tests": digests})}
    for module in (bundles, scripts):
        monkeypatch.setattr(module, "BUNDLES", known)
    monkeypatch.delitem(sys.modules, "queues_of_tests", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return "queues"


def test_bundle_is_read_from_the_installed_library(tmp_path: Path, bundle: str) -> None:
    """Once; the stored document has the texts, whatever is installed later."""
    text = document([bundle])
    policy = parsed(text, tmp_path)
    stored = with_texts(text, policy)
    (tmp_path / "queues_of_tests" / "b.lua").unlink()

    assert [script.name for script in policy.identities[0].scripts] == [bundle, bundle]
    assert parsed(stored, tmp_path) == policy
    assert problem_of(text, tmp_path)[0] == "script-bundle"


def test_texts_of_a_bundle_may_be_in_classes_and_functions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As libraries have them; one puts blanks for the newlines of its constants."""
    text = "\nreturn redis.call('GET', KEYS[1])\n"
    (tmp_path / "limits_of_tests.py").write_text(
        f"class A:\n    B = {text!r}\n    async def c(self):\n        run('x', {' ' + text!r})\n"
    )
    digests = {
        "A.B": sha1(text.replace("\n", " ").encode()).hexdigest(),  # noqa: S324
        "A.c": sha1(f" {text}".encode()).hexdigest(),  # noqa: S324
    }
    for module in (bundles, scripts):
        monkeypatch.setattr(module, "BUNDLES", {"of": Bundle("1", {"limits_of_tests": digests})})
    monkeypatch.syspath_prepend(tmp_path)

    texts = [found for _, found in bundles.bundle_texts("of")]
    assert texts == [text.replace("\n", " "), f" {text}"]


def test_bundle_with_another_text_is_a_problem(tmp_path: Path, bundle: str) -> None:
    """A text that the bundle does not list is never approved unseen."""
    (tmp_path / "queues_of_tests" / "b.lua").write_text("return 2")
    code, message, _ = problem_of(document([bundle]), tmp_path)

    assert code == "script-bundle"
    assert message == "`queues_of_tests:b.lua` has another text than in `queues` 1.2"


def test_bundle_of_another_version_is_reported_with_the_installed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that the installed version lacks is not a library that is missing."""
    known = {"pytest": Bundle("0.1", {"pytest.scripts": {"TEXT": ""}})}
    for module in (bundles, scripts):
        monkeypatch.setattr(module, "BUNDLES", known)
    _, message, help = problem_of(document(["pytest"]), tmp_path)

    assert message.endswith(f"; version {pytest.__version__} is installed")
    assert help.startswith("install `pytest` 0.1")


def test_bundle_of_a_library_that_is_not_installed_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The help has the name by which pip finds the library."""
    known = {"queues": Bundle("1.2", {"no_such_library": {"a.lua": ""}}, "pyqueues")}
    for module in (bundles, scripts):
        monkeypatch.setattr(module, "BUNDLES", known)
    code, message, help = problem_of(document(["queues"]), tmp_path)

    assert (code, "no_such_library:a.lua" in message) == ("script-bundle", True)
    assert help.startswith("install `pyqueues` 1.2")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a package of Node.js with a bundle, `queue`, whose versions have two texts."""
    package = tmp_path / "node_modules" / "queue"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text('{"version": "1.4.0"}')
    (package / "dist" / "a.js").write_text("const content = `return [[\\`\\n]]`;\nexports.a = 1;\n")
    texts: dict[str, str | list[str | None]] = {
        "dist/a.js": [sha1_of(b"return 'before'"), sha1_of(b"return [[`\n]]")],
        "dist/b.js": [sha1_of(b"return 2"), None],
    }
    known = {"queue": Bundle("1.3.0 to 1.4.0", {"queue": texts})}
    for module in (bundles, scripts):
        monkeypatch.setattr(module, "BUNDLES", known)
    return package


def test_bundle_of_node_is_found_as_node_finds_its_package(
    tmp_path: Path, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder above that of the policy, or by NODE_PATH; texts are not escaped."""
    below = tmp_path / "policies"
    below.mkdir()
    (found,) = parsed(document(["queue"]), below).identities[0].scripts
    assert (found.source, found.file) == ("return [[`\n]]", "queue:dist/a.js")

    node.parent.rename(tmp_path / "elsewhere")
    code, message, help = problem_of(document(["queue"]), below)
    assert (code, "no package `queue` in `node_modules`" in message) == ("script-bundle", True)
    assert help.startswith("install `queue` 1.3.0 to 1.4.0 where")
    monkeypatch.setenv("NODE_PATH", str(tmp_path / "elsewhere"))
    assert parsed(document(["queue"]), below).identities[0].scripts == (found,)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("const content = `return 3`;", "has another text than in `queue` 1.3.0 to 1.4.0"),
        ("const content = `return '${x}'`;", "has another text than in"),
        ("const content = `return 1", "has another text than in"),
    ],
)
def test_other_text_of_a_package_of_node_is_a_problem(
    tmp_path: Path, node: Path, source: str, message: str
) -> None:
    """Also one that depends on values; the version that is installed is named."""
    (node / "dist" / "a.js").write_text(source)
    found = problem_of(document(["queue"]), tmp_path)

    assert found[0] == "script-bundle"
    assert message in found[1]
    assert found[1].endswith("; version 1.4.0 is installed")


def test_installed_libraries_have_the_texts_of_their_bundles() -> None:
    """Those of a version that the bundle names: others may have other texts."""
    reports = [bundle_report(name, NODE_MODULES.parent) for name in BUNDLES]

    assert [item for item in reports if item and item.is_wrong] == []


@pytest.mark.parametrize(
    ("version", "is_named"),
    [("5.8.0", True), ("5.8.10", True), ("5.9.0", False), ("6.1.0", True), ("6.1.1", False)],
)
def test_versions_of_a_bundle_are_ranges(version: str, is_named: bool) -> None:
    assert names_version("5.8.0 to 5.8.10, 6.1.0", version) is is_named


def test_package_that_a_library_of_a_bundle_lacks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library itself is installed."""
    module = tmp_path / "lacking_of_tests.py"
    module.write_text("import package_of_tests.part\n")
    monkeypatch.setattr(bundles, "BUNDLES", {"of": Bundle("1", {"lacking_of_tests": {"A": "0"}})})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OperationError) as caught:
        list(bundles.bundle_texts("of"))
    needed = "`package_of_tests`, which `of` 1 needs,"
    assert caught.value.help == f"install {needed} where policies are checked and loaded"


def test_bundles_name_each_digest_once() -> None:
    """Two places with one text would be two scripts of one digest."""
    found = [digests for item in BUNDLES.values() for digests in item.digests.values()]
    digests = [digest for some in found for digest in some if digest]

    assert len(set(digests)) == len(digests) > 150
    assert all(len(digest) == 40 for digest in digests)


@pytest.mark.parametrize(
    ("before", "after", "marks"),
    [
        ([], ["a"], (True, False)),
        (["a"], [], (False, True)),
        (["a"], ["b"], (True, True)),
        (["a"], ["a"], None),
    ],
)
def test_plan_marks_further_scripts_as_widening(
    tmp_path: Path, before: list[str], after: list[str], marks: Any
) -> None:
    """Limits count a script once, so that it may do more than its commands alone."""
    files = {"a": "a.lua", "b": "b.lua"}
    for name in files:
        (tmp_path / f"{name}.lua").write_text(f"return '{name}'")
    old, new = (
        parsed(document([*names, "redis-py-lock"], files), tmp_path) for names in (before, after)
    )
    diff = diff_policies(old, new, load_table(), ())

    found = [(change.widens, change.narrows) for item in diff.identities for change in item.changes]
    assert found == ([] if marks is None else [marks])


def test_scripts_of_a_bundle_are_described_together(
    tmp_path: Path, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one digest, so that a change of any text is seen; and with one finding."""
    text = b"return redis.call('GET', 'app:' .. KEYS[1])"
    (tmp_path / "queues_of_tests" / "b.lua").write_bytes(text)
    digests = {"TEXT": sha1(b"return 1").hexdigest(), "b.lua": sha1(text).hexdigest()}  # noqa: S324
    (tmp_path / "queues_of_tests" / "c.lua").write_bytes(text + b"\n")
    digests["c.lua"] = sha1(text + b"\n").hexdigest()  # noqa: S324
    for module in (bundles, scripts):
        monkeypatch.setattr(
            module, "BUNDLES", {bundle: Bundle("1.2", {"queues_of_tests": digests})}
        )
    policy = parsed(document([bundle, "redis-py-lock"]), tmp_path)

    diff = diff_policies(Policy(()), policy, load_table(), ())
    described = "\n".join(describe_identities(diff.identities, full=True))
    assert re.search(
        r"scripts queues \(3 scripts, [0-9a-f]{7}\), redis-py-lock \(3 scripts, [0-9a-f]{7}\)   ",
        described,
    )
    (finding,) = script_builds_keys(policy.identities[0])
    assert finding.message == (
        "2 scripts of `queues` put names of keys together:"
        " `queues_of_tests:b.lua`, `queues_of_tests:c.lua`"
    )


@pytest.mark.parametrize(("entry", "found"), [("s.lua", "the text `s.lua`"), (None, "nothing")])
def test_script_that_is_no_mapping_is_a_located_error(
    tmp_path: Path, entry: Any, found: str
) -> None:
    """The path alone is an easy slip."""
    text = document([]).replace('"scripts": {}', f'"scripts": {{"s": {json.dumps(entry)}}}')
    text = text.replace('"scripts": []', '"only": ["GET"]')
    code, message, help = problem_of(text, tmp_path)
    assert (code, help) == ("wrong-type", "write it like `s: {file: s.lua}`")
    assert message.startswith("`s` must be a mapping")
    assert found in message or entry is None


@pytest.mark.parametrize("name", ["redis-py-lock", "rq"])
def test_script_with_the_name_of_a_bundle_is_an_error(tmp_path: Path, name: str) -> None:
    """A grant that names it would not say which one it approves."""
    (tmp_path / "s.lua").write_text("return 1")
    with pytest.raises(PolicyError) as caught:
        parsed(document([name], {name: "s.lua"}), tmp_path)
    assert caught.value.problems[0].code == "reserved-script"


@pytest.mark.parametrize(
    "comment", ["files are here", "{}", '["x"]', '["s.lua", 5]', '["s.lua", "\\u0100"]', "null"]
)
def test_comment_that_looks_like_a_stored_text_is_a_comment(comment: str) -> None:
    """Only a list of a file and its bytes is one."""
    assert stored_texts(f"#script {comment}\nversion: 1\n") == {}
