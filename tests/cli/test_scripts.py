"""`keyleash scripts`: approve the scripts of a folder, and list refused ones."""

from __future__ import annotations

from pathlib import Path

import pytest

import keyleash
from keyleash.policy.scripts import OF_LOCKS
from keyleash.store.keyspace import script_digest
from support.command_line import Cli
from support.node import require_node

FLUSH = "redis.call('FLUSHALL') return redis.call(ARGV[1])"
GET = "local call = redis.call\nreturn call('GET', KEYS[1])\n"
POLICY = """\
version: 1
{scripts}identities:
  one:
    kind: machine
    grants: [{{allow: [read, write], keys: ["app:*"], scripts: [{names}]}}]
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of scripts, and libraries of the forms of those that have bundles."""
    files = {
        "lua/takeOne.lua": GET,
        "lua/copy/again.lua": GET,
        "lua/flush.lua": FLUSH,
        "lua/parts/whole.lua": "--- @include 'part'\nreturn 1",
        "lua/rq.lua": "return 2",
        "rq/scripts.py": (
            '"""Docs of redis.call."""\n'
            "TAKE = 'return redis.call(\"LPOP\", KEYS[1])'\n"
            "class Store:\n    async def save(self, key):\n"
            "        run('redis.pcall(\"SET\", KEYS[1], 1)', f'redis.call({key})', 'GET')\n"
        ),
        "rq/other.py": "TEXT = 'redis.call(1)'\n",
        "other/scripts.py": "TEXT = 'redis.call(2)'\n",
        "node_modules/bullmq/package.json": '{"version": "99.0.0"}',
        "node_modules/bullmq/dist/cjs/scripts/addJob-2.js": (
            "const content = `--[[ Adds ]]\nlocal rcall = redis.call\nrcall('INCR', KEYS[1])\n`;\n"
        ),
        "node_modules/bullmq/dist/cjs/scripts/index.js": 'require("./addJob-2");\n',
        "node_modules/bullmq/dist/cjs/commands/addJob-2.lua": "return 3",
        "node_modules/other/addJob-2.js": "const content = `return 4`;\n",
    }
    for name, text in files.items():
        path = tmp_path / "all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "all"


def test_scripts_of_a_folder_are_listed_with_their_commands(offline: Cli, library: Path) -> None:
    """Those in sources of known libraries too; each text once, and no part of others."""
    output = offline.run("scripts", "approve", "all")
    lines = output.stdout.splitlines()

    assert output.exit_code == 0
    assert lines == [
        "scripts:",
        f"  # {script_digest(FLUSH)}: FLUSHALL, others, by computed names",
        lines[2],
        "  flush: {file: all/lua/flush.lua}",
        f"  # {script_digest('return 2')}: no command",
        "  rq-2: {file: all/lua/rq.lua}",
        f"  # {script_digest(GET)}: GET",
        "  take-one: {file: all/lua/takeOne.lua}",
        lines[8],
        "  # add-job-2: in all/node_modules/bullmq/dist/cjs/scripts/addJob-2.js",
        lines[10],
        "  # take: in all/rq/scripts.py:TAKE",
        lines[12],
        "  # save: in all/rq/scripts.py:save",
        "# In a grant: scripts: [flush, rq-2, take-one]",
    ]
    assert lines[2].startswith("  # no policy allows `FLUSHALL` at 1:12 (")
    assert [lines[number].partition(": ")[2] for number in (8, 10, 12)] == ["INCR", "LPOP", "SET"]
    assert output.stderr == "3 scripts in sources: `-o DIR` writes the texts that a policy needs\n"


def test_written_fragment_is_a_part_of_a_policy(offline: Cli, library: Path) -> None:
    """Of every script, with paths from the folder in which the policy is."""
    fragment = offline.ok("scripts", "approve", "all", "-o", "my texts")
    names = fragment.splitlines()[-1].removeprefix("# In a grant: scripts: [").rstrip("]")
    Path("policy.yaml").write_text(POLICY.format(scripts=fragment, names=names))

    assert "is valid" in offline.ok("check", "policy.yaml")
    assert len(list(Path("my texts").iterdir())) == len(names.split(", ")) == 6
    assert Path("my texts/add-job-2.lua").read_text().startswith("--[[ Adds ]]\nlocal rcall")


def test_script_that_cannot_be_approved_is_left_out(offline: Cli, library: Path) -> None:
    """With the reason; the others are still printed."""
    (library / "lua" / "flush.lua").write_text("return\nos.time()")
    (library / "lua" / "long.lua").write_text("-" * 65537)
    result = offline.run("scripts", "approve", "all/lua")
    rows = offline.json("scripts", "approve", "all/lua", exit_code=1)["scripts"]

    assert result.exit_code == 1
    assert "# all/lua/flush.lua cannot be approved: 2:1: an approved script has no" in result.stdout
    assert "take-one" in result.stdout
    assert result.stderr == "2 scripts not approved: see the comments\n"
    assert [row["file"] for row in rows] == [None, None, "all/lua/rq.lua", "all/lua/takeOne.lua"]
    assert rows[1]["problem"] == "it has more than 65536 bytes"
    assert rows[3]["commands"] == ["GET"]


@pytest.mark.parametrize(
    ("folder", "message", "code"),
    [
        ("none", "there is no Lua script in `none`", 1),
        ("missing", "cannot read `missing`: it is not a directory", 66),
        ("rq", "cannot read `rq/scripts.py`: ", 66),
    ],
)
def test_folder_without_scripts_is_an_error(
    offline: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    message: str,
    code: int,
) -> None:
    """So is a source that cannot be read."""
    monkeypatch.chdir(tmp_path)
    Path("none").mkdir()
    Path("rq").mkdir()
    Path("rq/scripts.py").write_text("TEXT = (")
    result = offline.run("scripts", "approve", folder)

    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_refused_script_is_pending_until_it_is_approved(cli: Cli, library: Path) -> None:
    """The list has the digest by which the folder's script is found."""
    Path("policy.yaml").write_text(POLICY.format(scripts="", names=OF_LOCKS))
    cli.ok("load", "policy.yaml", "--yes")
    assert cli.run("scripts", "pending").stderr == "no refused scripts\n"
    agent = keyleash.Redis.from_url(cli.url, token=cli.token("one"))
    for _ in range(2):
        with agent, keyleash.correlation("r-7"), pytest.raises(keyleash.CommandRefusedError):
            agent.eval(GET, 1, "app:a")
    shown = cli.ok("scripts", "pending", "one", "--since", "1h")
    (row,) = cli.json("scripts", "pending")["scripts"]

    assert shown.splitlines()[1].split()[:3] == [script_digest(GET), "one", "2"]
    assert (row["digest"], row["calls"], row["correlation"]) == (script_digest(GET), 2, "r-7")
    fragment = cli.ok("scripts", "approve", "all/lua")
    assert row["digest"] in fragment
    Path("policy.yaml").write_text(POLICY.format(scripts=fragment, names="take-one"))
    cli.ok("load", "policy.yaml", "--yes", "--allow-widening")
    assert cli.json("scripts", "pending") == {"scripts": [], "unnamed": 0}


@pytest.mark.node
def test_scripts_of_bullmq_are_those_of_its_bundle(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 64, with the package that is installed; they run."""
    modules = require_node("bullmq")
    result = cli.run("scripts", "approve", modules / "bullmq", "-o", tmp_path / "lua")

    assert result.exit_code == 0
    assert "64 scripts of bundles that a grant may name: `bullmq`" in result.stderr
    assert len(list((tmp_path / "lua").iterdir())) == 64
    monkeypatch.setenv("NODE_PATH", str(modules))
    (tmp_path / "policy.yaml").write_text(POLICY.format(scripts="", names="bullmq"))
    cli.ok("load", tmp_path / "policy.yaml", "--yes")
    agent = keyleash.Redis.from_url(cli.url, token=cli.token("one"))
    agent.set("app:job", "1")
    text = (tmp_path / "lua" / "add-log-2.lua").read_text()
    assert [agent.eval(text, 2, "app:job", "app:logs", "1", "a log", "") for _ in "12"] == [1, 2]
