"""`keyleash metrics`: what Prometheus reads of a server."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from support.command_line import Cli
from support.replication import PATIENCE_S
from support.servers import RealServer

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
LABELS = {"identity", "limit", "code"}


def samples(text: str) -> dict[str, float]:
    """Return the samples by name and labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def used(loaded: Cli) -> str:
    token = loaded.token("agent-runner")
    loaded.ok("exec", "SET", "agents:jobs:1:state", "x", KEYLEASH_TOKEN=token)
    loaded.run("exec", "GET", "elsewhere", KEYLEASH_TOKEN=token)
    return token


def test_metrics_are_the_numbers_of_status(server: RealServer, example: Path) -> None:
    """The output is in Prometheus' text format, on every server."""
    cli = Cli(server.url)
    cli.ok("load", example, "--yes")
    used(cli)
    found = samples(cli.ok("metrics"))

    assert found["keyleash_up"] == 1
    assert found["keyleash_policy_generation"] == 1
    assert found["keyleash_tokens_live{identity=agent-runner}"] == 1
    assert found["keyleash_events_total{identity=agent-runner}"] == 1
    assert found["keyleash_limit_used{identity=agent-runner,limit=budget.writes}"] == 1
    assert found["keyleash_limit_max{identity=agent-runner,limit=budget.writes}"] == 20_000
    assert found["keyleash_recent_denials{code=KEY_NOT_GRANTED,identity=agent-runner}"] == 1
    assert found["keyleash_identity_active{identity=human-admin}"] == 1


def test_denials_without_an_entry_are_counted(server: RealServer, example: Path) -> None:
    """Metrics and status count them, also after their minute is over."""
    cli = Cli(server.url)
    cli.ok("load", example, "--yes")
    for number in range(4):
        cli.run("exec", f"NOSUCH{number}", KEYLEASH_TOKEN=f"kl_agent-runner_{number}")
    (runner,) = (
        item for item in cli.json("status")["identities"] if item["name"] == "agent-runner"
    )

    # Four, but for those that were the first of their minute.
    folded = 4 - runner["denied_length"]
    assert runner["denials_folded"] == folded >= 2
    found = samples(cli.ok("metrics"))
    assert found["keyleash_denials_folded_total{identity=agent-runner}"] == folded
    assert found["keyleash_denials_folded_total{identity=agent-reader}"] == 0
    assert f"{runner['denied_length']}+{folded}" in cli.ok("status")


def test_metrics_name_no_key_token_or_digest(loaded: Cli) -> None:
    """Labels have a bounded number of values and contain no secrets."""
    token = used(loaded)
    text = loaded.ok("metrics")

    families = list(text_string_to_metric_families(text))
    assert {
        name for item in families for sample in item.samples for name in sample.labels
    } == LABELS
    for secret in (token, loaded.json("token", "list")["tokens"][0]["id"], "agents:jobs"):
        assert secret not in text
    for family in families:
        assert family.documentation
        assert re.fullmatch(r"keyleash_[a-z_]+", family.name)


def test_page_lists_every_metric_and_no_other(loaded: Cli) -> None:
    """The page documents every metric."""
    used(loaded)
    shown = {
        sample.name
        for family in text_string_to_metric_families(loaded.ok("metrics"))
        for sample in family.samples
    }

    assert set(re.findall(r"^\| `(keyleash_\w+)", PAGE, re.MULTILINE)) == shown
    alerts = set(re.findall(r"keyleash_\w+", "".join(re.findall(r"expr: (.*)", PAGE))))
    assert alerts
    assert alerts <= shown


def test_server_out_of_reach_is_up_0(offline: Cli) -> None:
    """The output has the 0; standard error has the reason."""
    result = offline.run("metrics")

    assert samples(result.stdout) == {"keyleash_up": 0}
    assert result.exit_code == 69
    assert "cannot reach" in result.stderr
    assert "\nhelp: check --url or KEYLEASH_URL" in result.stderr


def test_server_without_a_policy_is_up_with_generation_0(cli: Cli) -> None:
    """A server without a policy is not a failure."""
    found = samples(cli.ok("metrics"))

    assert (found["keyleash_up"], found["keyleash_policy_generation"]) == (1, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_metrics_are_served_on_loopback_until_a_signal(
    loaded: Cli, embedded: RealServer, number: signal.Signals
) -> None:
    """Each scrape reads the server again; a signal ends with exit code 0."""
    with loaded.spawn(["metrics", "--port", "0", "--host", "127.0.0.2", "--json"]) as serving:
        assert serving.stdout is not None
        url = json.loads("".join(serving.stdout.readline() for _ in range(3)))["url"]
        assert url.startswith("http://127.0.0.2:")
        before = samples(scrape(url))
        embedded.client().set("keyleash:denied:agent-runner", "no stream")
        broken = samples(scrape(url))
        embedded.client().delete("keyleash:denied:agent-runner")
        used(loaded)
        after = samples(scrape(url))
        serving.send_signal(number)
        rest, errors = serving.communicate(timeout=PATIENCE_S)

    events = "keyleash_events_total{identity=agent-runner}"
    assert (before[events], after[events]) == (0, 1)
    assert broken == {"keyleash_up": 0}
    assert (rest, serving.returncode) == ("", 0)
    assert errors.endswith("stopped\n")


def scrape(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310 - it is our own URL
        text: str = answer.read().decode()
    return text


def test_used_port_is_an_error(loaded: Cli) -> None:
    """The error has the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = loaded.run("metrics", "--port", str(taken.getsockname()[1]))

    assert result.exit_code == 1
    assert "address already in use" in result.stderr
