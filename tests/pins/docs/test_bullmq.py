"""The commands and the program of the page on BullMQ, run as written."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from support.command_line import Cli
from support.how_to import PAGES
from support.node import require_node
from support.servers import RealServer

PAGE = (PAGES / "bullmq.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


@pytest.mark.node
def test_page_on_bullmq_leads_from_an_empty_folder_to_a_delayed_job_and_a_denial(
    embedded: RealServer, tmp_path: Path
) -> None:
    """But for the server, BullMQ and the port of the gateway, which are those of the tests."""
    (tmp_path / "node_modules").symlink_to(require_node("bullmq"))
    blocks = BLOCK.findall(PAGE)
    for language, name in (("yaml", "agents.yaml"), ("js", "emails.mjs")):
        (text,) = (text for kind, text in blocks if kind == language)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (printed,) = (text for kind, text in blocks if kind == "text")
    install, start, *rest = (text for kind, text in blocks if kind == "bash")
    assert "bullmq@6.7.0 ioredis@6" in install
    assert "keyleash serve" in install
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    is_open = f"(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null"
    options = f"--listen 127.0.0.1:{port} --admin 127.0.0.1:0"
    start = start.replace("6380", port).replace("keyleash gateway", f"keyleash gateway {options}")
    cli = Cli(embedded.url)
    program = tmp_path / "bin" / "keyleash"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {" ".join(cli.command)} "$@"\n')
    program.chmod(0o755)
    end = "trap 'kill $!; wait $!' EXIT"
    wait = f"until {is_open}; do sleep 0.1; done"

    ran = subprocess.run(
        ["bash", "-c", "\n".join(["set -e", start, end, wait, *rest])],
        env={**cli.process_env(), "PATH": f"{program.parent}:{os.environ['PATH']}"},
        cwd=tmp_path, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip

    assert (ran.returncode, printed in ran.stdout) == (0, True), (ran.stdout, ran.stderr)
    assert "bull:payments:wait" in ran.stdout.partition(printed)[2]
