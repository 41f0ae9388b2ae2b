"""The images: Dockerfiles by a linter and by their instructions.

No image is built here: the base images come from a registry, which tests do not reach.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from support.deployment import DEPLOY, IMAGE, PROJECT, ROOT, assert_accepted

TEXT = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
IGNORED = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def instruction(name: str) -> str:
    """Return the arguments of the last instruction with this name, on one line."""
    arguments: list[str] = re.findall(rf"^{name} (.*)$", TEXT.replace("\\\n", " "), re.M)
    return arguments[-1]


@pytest.mark.parametrize("name", ["Dockerfile", "agents/Dockerfile"])
def test_dockerfile_has_no_finding_of_the_linter(name: str) -> None:
    """The linter parses it, and the shell commands in it."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DEPLOY / name], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_image_runs_the_command_as_a_number_that_is_not_root() -> None:
    """Kubernetes sees from a number alone that it is not root."""
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", instruction("USER"))
    assert json.loads(instruction("ENTRYPOINT")) == ["keyleash"]


def test_image_starts_a_gateway_with_tls() -> None:
    """Who publishes its port without a certificate gets an error, not an open gateway."""
    words = json.loads(instruction("CMD"))

    assert_accepted(words)
    assert {"--tls-cert", "--tls-key"} < set(words)
    assert "--insecure" not in words


def test_image_installs_extras_that_exist() -> None:
    """Gateway and CLI are in one image."""
    (extras,) = re.findall(r'install .*"/src\[(.*)\]"', TEXT)

    assert set(extras.split(",")) == {"cli", "gateway"} <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_health_check_of_the_image_follows_the_admin_port(status: int, healthy: bool) -> None:
    """The image has no curl: Python asks."""

    class Admin(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    python, *words = json.loads(instruction("HEALTHCHECK").partition(" CMD ")[2])
    with HTTPServer(("127.0.0.1", 0), Admin) as admin:
        threading.Thread(target=admin.serve_forever).start()
        try:
            port = f":{admin.server_port}"
            command = [word.replace(":9122", port) for word in words]
            done = subprocess.run([sys.executable, *command], capture_output=True, check=False)
        finally:
            admin.shutdown()

    assert python == "python"
    assert (done.returncode == 0) is healthy, done.stderr


def test_build_context_is_enough_for_the_wheel(tmp_path: Path) -> None:
    """All that is not named in .dockerignore stays outside of the image."""
    assert IGNORED[1] == "*"
    context = tmp_path / "context"
    context.mkdir()
    for name in (line[1:] for line in IGNORED if line.startswith("!")):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, context / name)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(build, cwd=context, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    for tree, folder in (("loader/keyleash", "."), ("lua", "lua"), ("examples", "examples")):
        files = {
            (Path("keyleash") / folder / path.relative_to(ROOT / tree)).as_posix()
            for path in (ROOT / tree).rglob("*.*")
            if path.suffix not in {".pyc", ".md"}
        }
        assert files <= set(zipfile.ZipFile(wheel).namelist())


def test_files_that_name_the_image_name_this_version() -> None:
    """A release changes them all."""
    names = {
        name
        for path in DEPLOY.rglob("*")
        if path.is_file()
        for name in re.findall(r"\bkeyleash:\d+\.[\d.]+", path.read_text(encoding="utf-8"))
    }

    assert names == {IMAGE}


def test_agents_dockerfile_copies_files_that_exist() -> None:
    """The build fails at a name that was changed."""
    text = (DEPLOY / "agents" / "Dockerfile").read_text(encoding="utf-8")

    for name in re.findall(r"^COPY (\S+)", text, re.M):
        assert (DEPLOY / "agents" / name).is_file(), name
