"""The Kubernetes manifests: by the schemas of the API, and by what the pods may do.

They are not applied here: that needs a cluster.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from support.deployment import DEPLOY, IMAGE, assert_accepted, assert_hardened, documents

VERSION = "1.33"
"""Of the API: the first in which sidecars are stable."""
FILES = {path.name: documents(f"kubernetes/{path.name}") for path in DEPLOY.glob("kubernetes/*")}
(SIDECAR,) = FILES["sidecar.yaml"]
GATEWAY, SERVICE, *POLICIES = FILES["gateway.yaml"]
TOKEN_FOLDER = "/run/keyleash"


def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def containers(deployment: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod(deployment).get("initContainers", []), *pod(deployment)["containers"]]


GATEWAYS = {"sidecar": containers(SIDECAR)[0], "gateway": containers(GATEWAY)[0]}
AGENT = containers(SIDECAR)[1]


@pytest.mark.parametrize(
    "document",
    [item for file in FILES.values() for item in file],
    ids=lambda item: item["metadata"]["name"],
)
def test_resource_is_valid(document: dict[str, Any]) -> None:
    """Unknown fields are rejected as well."""
    kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("deployment", [SIDECAR, GATEWAY], ids=["sidecar", "gateway"])
def test_pods_run_without_root_rights_or_an_account(deployment: dict[str, Any]) -> None:
    """A pod that gives a process away gives nothing else away."""
    spec, labels = pod(deployment), deployment["spec"]["template"]["metadata"]["labels"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for container in containers(deployment):
        assert_hardened(container["securityContext"])


@pytest.mark.parametrize("name", GATEWAYS)
def test_gateway_has_options_of_the_program(name: str) -> None:
    """An option that does not exist would be found at the first start."""
    assert_accepted(GATEWAYS[name]["args"])


@pytest.mark.parametrize("name", GATEWAYS)
def test_gateway_is_probed_at_its_admin_port(name: str) -> None:
    """Not ready while it waits for the server or drains; restarted only if it does not answer."""
    container = GATEWAYS[name]
    probes = {key: value["httpGet"] for key, value in container.items() if key.endswith("Probe")}
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert container["image"].rpartition("/")[2] == IMAGE
    assert probes == {
        "startupProbe": {"path": "/readyz", "port": "admin"},
        "readinessProbe": {"path": "/readyz", "port": "admin"},
        "livenessProbe": {"path": "/healthz", "port": "admin"},
    }
    assert f"0.0.0.0:{ports['admin']}" in " ".join(container["args"])


def test_sidecar_starts_before_the_agent_and_listens_to_its_pod_alone() -> None:
    """A container that is started first and restarted always is a sidecar."""
    args = GATEWAYS["sidecar"]["args"]

    assert GATEWAYS["sidecar"]["restartPolicy"] == "Always"
    assert args[args.index("--listen") + 1] == "127.0.0.1:6380"


def test_only_the_gateway_has_the_url_of_the_server() -> None:
    """The agent has its token, and the gateway has no token."""
    for container in GATEWAYS.values():
        assert container["envFrom"] == [{"secretRef": {"name": "keyleash-server"}}]
        assert TOKEN_FOLDER not in str(container)
    assert not {"env", "envFrom"} & set(AGENT)
    assert "shareProcessNamespace" not in pod(SIDECAR)


def test_agent_gets_a_url_with_the_token_of_the_mounted_file(tmp_path: Path) -> None:
    """Without a token the program is not started."""
    (mount,) = AGENT["volumeMounts"]
    (volume,) = pod(SIDECAR)["volumes"]
    command = [word.replace(TOKEN_FOLDER, str(tmp_path)) for word in AGENT["command"]]
    program = [*command, "printenv", "REDIS_URL"]

    missing = subprocess.run(program, capture_output=True, text=True, check=False)
    (tmp_path / "token").write_text("secret\n")
    done = subprocess.run(program, capture_output=True, text=True, check=False)

    assert mount == {"name": volume["name"], "mountPath": TOKEN_FOLDER, "readOnly": True}
    assert missing.returncode != 0
    assert done.stdout == "redis://agent-runner:secret@127.0.0.1:6380\n", done.stderr


def test_gateway_for_many_agents_has_tls() -> None:
    """Tokens travel between nodes."""
    args = GATEWAYS["gateway"]["args"]
    (mount,) = GATEWAYS["gateway"]["volumeMounts"]

    assert {
        f"--tls-cert={mount['mountPath']}/tls.crt",
        f"--tls-key={mount['mountPath']}/tls.key",
    } <= {*args}
    assert "--insecure" not in args


def test_network_policies_leave_agents_the_gateway_and_names() -> None:
    """Agents have no way to the server, and the server takes gateways alone."""
    agents, gateways, server = (policy["spec"] for policy in POLICIES)
    gateway = {"podSelector": GATEWAY["spec"]["selector"]}
    redis_port = [{"protocol": "TCP", "port": 6380}]
    to_gateway, to_names = agents["egress"]

    assert agents["policyTypes"] == ["Egress"]
    assert to_gateway == {"to": [gateway], "ports": redis_port}
    assert {port["port"] for port in to_names["ports"]} == {53}
    assert gateways["podSelector"] == {"matchLabels": SERVICE["spec"]["selector"]}
    assert gateways["ingress"] == [
        {"from": [{"podSelector": agents["podSelector"]}], "ports": redis_port}
    ]
    assert server["ingress"] == [{"from": [gateway], "ports": [{"protocol": "TCP", "port": 6379}]}]
    assert gateways["policyTypes"] == server["policyTypes"] == ["Ingress"]
