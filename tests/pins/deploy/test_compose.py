"""compose.yaml: by its schema and by its networks; its scripts run here.

The services are not started here: their images come from a registry, which tests do not reach.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from compose_spec import PyCompose

import keyleash
from keyleash.gateway.serve import DRAIN_S
from support.deployment import DEPLOY, ROOT, assert_accepted, documents
from support.servers import RealServer

(FILE,) = documents("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
AGENTS = {name for name in SERVICES if name.endswith("-agent")}
OURS = {"gateway", "setup", *AGENTS}
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def peers(name: str) -> set[str]:
    """Return the other services on the networks of a service."""
    networks = set(SERVICES[name]["networks"])
    return {other for other in SERVICES if networks & set(SERVICES[other]["networks"])} - {name}


def shell(words: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    """Run words of the file, in which a dollar sign is doubled."""
    return subprocess.run(
        [word.replace("$$", "$") for word in words],
        env={"PATH": PATH, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_file_is_valid() -> None:
    """All fields are known, and all networks, services and durations that it names."""
    PyCompose.from_json(json.dumps(FILE)).validate()


def test_agents_reach_the_gateway_and_no_server() -> None:
    """The gateway's tier depends on it."""
    assert sorted(AGENTS) == ["node-agent", "python-agent"]
    for agent in AGENTS:
        assert peers(agent) == {"gateway"} | AGENTS - {agent}
    assert peers("valkey") == {"gateway", "setup"}
    assert all(network["internal"] is True for network in FILE["networks"].values())


def test_no_service_publishes_a_port_or_joins_the_host() -> None:
    """A published port would be reached past the networks."""
    for service in SERVICES.values():
        assert not {"ports", "network_mode", "privileged", "pid", "links"} & set(service)


@pytest.mark.parametrize("name", sorted(OURS))
def test_containers_of_programs_are_read_only_and_without_capabilities(name: str) -> None:
    """All but that of the server, which is not ours."""
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert ("user" in SERVICES[name]) is (name == "setup")


def test_agents_wait_for_a_healthy_gateway_and_their_tokens() -> None:
    """No agent starts with a connection refused or a missing file."""
    for agent in AGENTS:
        assert SERVICES[agent]["depends_on"] == {
            "gateway": {"condition": "service_healthy"},
            "setup": {"condition": "service_completed_successfully"},
        }
    for name in ("gateway", "setup"):
        assert SERVICES[name]["depends_on"] == {"valkey": {"condition": "service_healthy"}}
    assert {"healthcheck"} <= set(SERVICES["valkey"]) & set(SERVICES["gateway"])


def test_each_agent_mounts_its_own_token_read_only() -> None:
    """No agent reads the token of another one."""
    mounted = {name: SERVICES[name]["volumes"] for name in AGENTS}

    assert len({volume for volumes in mounted.values() for volume in volumes}) == len(AGENTS)
    for (volume,) in mounted.values():
        name, path, mode = volume.split(":")
        assert name in FILE["volumes"]
        assert (path, mode) == ("/run/keyleash", "ro")
        assert any(entry.startswith(f"{name}:") for entry in SERVICES["setup"]["volumes"])


def test_file_has_no_secret() -> None:
    """No password in a URL, but the variable of the token; no token in an environment."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")

    assert re.findall(r"://[^/\s\"]*:([^@/\s\"]*)@", text) == ["$$token"]
    for service in SERVICES.values():
        assert set(service.get("environment", {})) <= {"KEYLEASH_URL", "KEYLEASH_ACTOR"}


def test_gateway_has_options_of_the_program_and_time_to_drain() -> None:
    """An option that does not exist would be found at the first start."""
    assert_accepted(SERVICES["gateway"]["command"])
    assert int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s")) > DRAIN_S


@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_entrypoint_of_an_agent_makes_a_url_with_the_token_of_the_file(
    agent: str, tmp_path: Path
) -> None:
    """The program gets REDIS_URL alone; without a token it is not started."""
    entrypoint = [
        word.replace("/run/keyleash", str(tmp_path)) for word in SERVICES[agent]["entrypoint"]
    ]
    command = ["sh", "-c", "printenv REDIS_URL; echo $#", "sh", "a b", "c"]

    missing = shell([*entrypoint, *command])
    (tmp_path / "token").write_text("secret\n")
    done = shell([*entrypoint, *command])

    assert (missing.returncode != 0, missing.stdout) == (True, "")
    assert done.stdout == "redis://agent-runner:secret@gateway:6380\n2\n", done.stderr


@pytest.mark.slow
def test_setup_loads_the_policy_and_writes_two_tokens(embedded: RealServer, tmp_path: Path) -> None:
    """It runs again at each `up`, and then replaces the tokens."""
    setup = SERVICES["setup"]
    policy, *volumes = (entry.split(":") for entry in setup["volumes"])
    assert (DEPLOY / policy[0]).resolve() == ROOT / "examples" / "starter.yaml"
    places = {policy[1]: str(DEPLOY / policy[0]), "/tokens": str(tmp_path)}
    for _, folder in volumes:
        Path(folder.replace("/tokens", str(tmp_path))).mkdir()
    words = [*setup["entrypoint"], *setup["command"]]
    for place, here in places.items():
        words = [word.replace(place, here) for word in words]

    before: set[str] = set()
    for _ in range(2):
        done = shell(words, KEYLEASH_URL=embedded.url, KEYLEASH_ACTOR="compose")

        assert done.returncode == 0, done.stderr
        tokens = {path.read_text().strip() for path in tmp_path.glob("*/token")}
        assert len(tokens) == len(AGENTS)
        assert not tokens & before
        for token in tokens:
            client = keyleash.Redis.from_url(embedded.url, token=token)
            assert client.whoami().identity == "agent-runner"
        before = tokens
