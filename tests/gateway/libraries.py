"""Clients and libraries that take a URL, and the page of what ran with them through a gateway."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from typing import Any

from support.node import NODE_MODULES

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = Path(__file__).with_name("clients")
ENVIRONMENTS = ROOT / ".venv"
RELEASE = """\
if redis.call("GET", KEYS[1]) == ARGV[1] then
  return redis.call("DEL", KEYS[1])
end
return 0
"""
"""A script that a policy approves as a file."""
POLICY = """
version: 1
scripts:
  release: {file: release.lua}
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete, scan], keys: ["agents:jobs:*"], scripts: [release]}
      - {allow: [publish, subscribe], channels: ["agents:news:*"]}
"""
BULLMQ_POLICY = """
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["bull:jobs:*"], scripts: [bullmq]}
"""
BULL_SCRIPTS = [
    "addJob", "addLog", "cleanJobsInSet", "extendLock", "getCountsPerPriority", "isFinished",
    "isJobInList", "moveStalledJobsToWait", "moveToActive", "moveToDelayed", "moveToFinished",
    "obliterate", "pause", "promote", "releaseLock", "removeJob", "removeJobs", "removeRepeatable",
    "reprocessJob", "retryJob", "retryJobs", "saveStacktrace", "takeLock", "updateData",
    "updateDelaySet", "updateProgress",
]  # fmt: skip
BULL_POLICY = f"""
version: 1
scripts:
{"".join(f"  {name}: {{file: {name}.lua}}" + chr(10) for name in BULL_SCRIPTS)}\
identities:
  agent-runner:
    kind: machine
    grants:
      - allow: [read, write, delete, scan]
        keys: ["bull:jobs:*"]
        scripts: [{fill(", ".join(BULL_SCRIPTS), 84, subsequent_indent=" " * 10)}]
      - {{allow: [publish, subscribe], channels: ["bull:jobs:*"]}}
"""
BULL_FILES = """
import { writeFileSync } from "node:fs";
import scripts from "bull/lib/scripts/index.js";
for (const { name, content } of Object.values(scripts)) writeFileSync(`${name}.lua`, content);
"""
"""Writes the scripts that Bull has in its sources."""
INTRODUCTION = """\
<!-- Made by `make clients` from test runs; do not edit. -->
# Clients of the gateway

Clients and libraries, unmodified, that ran through `keyleash gateway` with nothing but a URL:
`redis://agent-runner:TOKEN@HOST:6380`. Each step of a run compares values, and one is a denial.
Libraries of Python can also use [guarded connections](compatibility.md), without a gateway; those
of [agent memory](../how-to/agent-memory.md) were tested in both ways there.

In the code `url` is that URL. A client that sets its name with CLIENT SETNAME has that name as the
correlation id of its calls; the others have `gw-` and the number of the connection.

Where no other policy is shown, a client ran with this one. `release.lua` is a script that releases
a lock.

```yaml
{policy}
```
"""


@dataclass(frozen=True)
class Client:
    """A row of the page: what is declared.

    Attributes:
        name: The distribution, and what to know it by.
        program: A file of `clients`.
        recipe: How the URL gets into it.
        command: The programs on PATH whose clients they are; empty for a library.
        environment: Of a library of Python, the environment beside that of the tests.
        protocols: What it is asked to speak; "" is what it speaks by itself.
        library: Of a library of Python, its distribution.
        policy: The least that the run needs; or a module of `compat`, whose LIBRARY has it.
        files: Of a library of Node.js, a program that writes its scripts.
        correlation: The name that it gives its connections.
        note: What else to know.
    """

    name: str
    program: str
    recipe: str
    command: str = ""
    environment: str = ""
    protocols: Sequence[str] = ("",)
    library: str = ""
    policy: str = POLICY
    files: str = ""
    correlation: str = ""
    note: str = ""

    @property
    def is_of_node(self) -> bool:
        """True for a library of Node.js."""
        return self.program.endswith(".mjs")

    @property
    def runtime(self) -> str:
        """The program that runs it."""
        if self.is_of_node:
            return "node"
        if self.environment:
            return str(ENVIRONMENTS / self.environment / "bin" / "python")
        return sys.executable

    def version(self) -> str:
        """Return the version that is installed; empty if there is none."""
        if shutil.which(self.runtime) is None or (self.command and not shutil.which(self.command)):
            return ""
        if self.command:
            return _printed(self.command, "--version").split()[1]
        if self.is_of_node:
            described = NODE_MODULES / self.library / "package.json"
            return json.loads(described.read_text())["version"] if described.is_file() else ""
        code = f"from importlib.metadata import version; print(version({self.library!r}))"
        return _printed(self.runtime, "-c", code)

    def prepare(self, folder: Path) -> Path:
        """Write policy, scripts and programs into *folder*; return the policy."""
        policy, files = self.policy, {"release.lua": RELEASE}
        if self.policy.startswith("compat."):
            library = importlib.import_module(self.policy).LIBRARY
            policy = library.policy
            files = {f"{at}.lua": text for at, text in enumerate(library.scripts, start=1)}
        for name, text in {"agents.yaml": policy, **files}.items():
            (folder / name).write_text(text, encoding="utf-8")
        for program in CLIENTS.glob("*.*"):
            shutil.copy(program, folder)
        if self.is_of_node:
            (folder / "node_modules").symlink_to(NODE_MODULES)
        if self.files:
            (folder / "files.mjs").write_text(self.files, encoding="utf-8")
            subprocess.run([self.runtime, "files.mjs"], cwd=folder, check=True)
        return folder / "agents.yaml"

    def run(self, folder: Path, url: str, protocol: str) -> list[dict[str, str]]:
        """Run the program; return its features, with what went wrong."""
        ran = subprocess.run(
            [self.runtime, self.program], cwd=folder, capture_output=True, text=True, check=False,
            timeout=300, env={
                **os.environ, "REDIS_URL": url, "PROTOCOL": protocol, "PROGRAM": self.command,
                "RELEASE_LUA": RELEASE, "PYTHONPATH": str(folder),
            },
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        lines = ran.stdout.splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"feature"')]


def _printed(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.stdout.strip()


RESP = ("", "2", "3")
CLIS = [
    Client(name, "redis_cli.py", f"{name} -u $REDIS_URL", command=name, protocols=("2", "3"))
    for name in ("redis-cli", "valkey-cli")
]
REDIS_PY, REDIS_PY_ASYNCIO, *OLD_REDIS_PYS = [
    Client(
        f"redis-py{kind}{' 7' if environment else ''}", program, recipe,
        library="redis", environment=environment, protocols=RESP, correlation=correlation,
    )
    for environment in ("", "lowest")
    for kind, program, recipe, correlation in (
        ("", "redis_py.py", "client = redis.Redis.from_url(url)", "redis-py-1"),
        (
            " asyncio", "redis_py_asyncio.py", "client = redis.asyncio.Redis.from_url(url)",
            "redis-py-2",
        ),
    )
]  # fmt: skip
IOREDIS = Client(
    "ioredis", "ioredis.mjs", "const client = new Redis(url);",
    library="ioredis", correlation="ioredis-1",
)  # fmt: skip
BULLMQ = Client(
    "bullmq", "bullmq.mjs",
    'const connection = { url };\nconst queue = new Queue("jobs", { connection });\n'
    'const worker = new Worker("jobs", work, { connection });',
    library="bullmq", policy=BULLMQ_POLICY,
    note="[Step by step](../how-to/bullmq.md). Its scripts are a"
    " [bundle](scripts.md#bundles-of-libraries).",
)  # fmt: skip
BULL = Client(
    "bull", "bull.mjs", 'const queue = new Queue("jobs", url);\nqueue.process(work);',
    library="bull", policy=BULL_POLICY, files=BULL_FILES,
    note="Version 4. Its scripts are in `lib/scripts`: write the `content` of each to a file.",
)  # fmt: skip
OTHERS = [
    *OLD_REDIS_PYS,
    Client(
        "node-redis", "node_redis.mjs", "const client = createClient({ url });",
        library="redis", protocols=RESP, correlation="node-redis-1",
        note="The package `redis` of npm.",
    ),
    Client(
        "rq", "rq_jobs.py",
        "rq worker --url $REDIS_URL jobs\n\nqueue = Queue(connection=redis.Redis.from_url(url))",
        library="rq", policy="compat.test_rq",
    ),
    Client(
        "celery", "celery_tasks.py",
        'app = Celery("jobs", broker=url, backend=url)\n\n'
        "celery -A jobs worker --without-gossip --without-mingle",
        library="celery", policy="compat.test_celery",
        note="For gossip and mingle, workers need keys that this policy does not grant.",
    ),
    Client(
        "dramatiq", "dramatiq_actors.py",
        "broker = RedisBroker(url=url)\nbackend = RedisBackend(url=url)",
        library="dramatiq", policy="compat.test_dramatiq",
    ),
    Client(
        "openai-agents", "openai_session.py", 'session = RedisSession.from_url("user-1", url=url)',
        library="openai-agents", policy="compat.test_openai_agents",
    ),
    Client(
        "redis-mcp-server", "mcp_tools.py", "redis-mcp-server --url $REDIS_URL",
        library="redis-mcp-server", environment="mcp",
        note="Its tools return denials as their texts, which say what to do instead.",
    ),
]  # fmt: skip


@dataclass
class Matrix:
    """The results of the runs.

    Attributes:
        rows: The version of each client, and its features by the protocol.
    """

    rows: dict[str, tuple[str, dict[str, list[str]]]] = field(default_factory=dict)

    def page(self, clients: Iterable[Client]) -> str:
        """Return the page.

        Raises:
            KeyError: a client did not run.
        """
        clients = sorted(clients, key=lambda client: client.name)
        lines = [
            INTRODUCTION.replace("{policy}", POLICY.strip()),
            "| client | version | protocols | result |",
            "|---|---|---|---|",
        ]
        for client in clients:
            version, ran = self.rows[client.name]
            spoken = ", ".join(f"RESP{protocol}" if protocol else "default" for protocol in ran)
            steps = f"all {len(next(iter(ran.values())))} steps work"
            lines.append(
                f"| [{client.name}](#{_anchor(client)}) | {version} | {spoken} | {steps} |"
            )
        for client in clients:
            lines += ["", *self._section(client)]
        return "\n".join([*lines, ""])

    def _section(self, client: Client) -> Iterable[str]:
        yield from (f"## {client.name}", "")
        if client.note:
            yield from (client.note, "")
        yield from ("```", client.recipe, "```", "")
        if client.policy.startswith("compat."):
            library: Any = importlib.import_module(client.policy).LIBRARY
            yield from (f"With [this policy](compatibility.md#{library.name}):", "")
        elif client.policy != POLICY:
            yield from ("With this policy:", "", "```yaml", client.policy.strip(), "```", "")
        features = next(iter(self.rows[client.name][1].values()))
        yield from (f"- {feature}" for feature in features)


def _anchor(client: Client) -> str:
    return re.sub(r"[^\w-]", "-", client.name.lower())
