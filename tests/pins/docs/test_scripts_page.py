"""docs/reference/scripts.md: its example, and the names that an approved script may use."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from hashlib import sha1
from pathlib import Path

import pytest

import keyleash
from keyleash.policy.bundles import BUNDLES
from keyleash.policy.lua.names import FUNCTIONS, LIBRARIES
from support.command_line import Cli
from support.leash import Leash
from support.scripted import scripted
from support.servers import RealServer

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "scripts.md"
ROW = re.compile(r"^\| (?:`(\w+)`|functions) \| (`.*`) \|$", re.MULTILINE)


def test_page_lists_every_name_that_a_script_may_use() -> None:
    """As the compiler accepts them."""
    (section,) = re.findall(r"^## What a script may use\n(.*?)^## ", PAGE.read_text(), re.M | re.S)
    listed = {name: set(re.findall(r"`(\w+)`", names)) for name, names in ROW.findall(section)}
    assert listed == {**LIBRARIES, "": FUNCTIONS}


def test_page_lists_the_versions_of_bundles() -> None:
    """And nothing else."""
    (section,) = re.findall(r"^## Bundles of libraries\n(.*?)^## ", PAGE.read_text(), re.M | re.S)
    rows = dict(re.findall(r"^\| `([\w-]+)` \| ([\d., to]+\d)", section, re.M))
    assert rows == {name: bundle.versions for name, bundle in BUNDLES.items()}


def test_guard_has_every_name_that_a_script_may_use(server: RealServer) -> None:
    """And no library of the guard lacks one."""
    names = [f"{library}.{name}" for library, members in LIBRARIES.items() for name in members]
    names += FUNCTIONS
    parts = [f"if {name} == nil then missing[#missing + 1] = '{name}' end" for name in names]
    text = f"local missing = {{}} {' '.join(parts)} return missing"
    assert scripted(Leash(server), text).eval(text, 0) == []


def example(language: str) -> str:
    """Return the block of a language."""
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return str(block)


def test_example_on_the_page_runs(
    embedded: RealServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers copy the text, the policy, the Python and the command line of the page."""
    monkeypatch.chdir(tmp_path)
    text = example("lua")
    Path("take.lua").write_text(text)
    Path("agents.yaml").write_text(example("yaml"))
    cli = Cli(embedded.url)
    cli.ok("load", "agents.yaml", "--yes")
    token = cli.json("token", "issue", "agent-runner")["token"]
    monkeypatch.setenv("KEYLEASH_URL", embedded.url)
    monkeypatch.setenv("KEYLEASH_TOKEN", token)
    code = example("python")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})  # noqa: S102
    assert printed.getvalue().splitlines() == re.findall(r"^# (.*)$", code, re.M)

    shell = example("sh").splitlines()[-1]
    digest = sha1(text.encode()).hexdigest()  # noqa: S324
    words = shlex.split(shell.replace("$digest", digest))[1:]
    keyleash.Redis.from_env().rpush("agents:queue:new", "job-2")
    assert cli.ok(*words, KEYLEASH_TOKEN=token) == "job-2\n"


def test_denial_in_a_script_is_the_text_on_the_page(embedded: RealServer) -> None:
    """As `redis.pcall` returns it."""
    text = "return redis.pcall('LPOP', 'agents:jobs').err"
    error = scripted(Leash(embedded), text).eval(text, 0).decode()
    assert f"`{error}" in PAGE.read_text()
