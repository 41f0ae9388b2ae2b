"""The guide for a running application: its steps run as written, from an empty folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from keyleash.addons.servers.embedded import free_port
from pins.docs.test_readme import ROOT, SHELL, assert_printed, run
from support.servers import RealServer

PAGE = (ROOT / "docs" / "how-to" / "move-an-application.md").read_text(encoding="utf-8")
(APPLICATION,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
(BROAD,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S)
ADDRESS = "127.0.0.1:6380"
OUTPUT = (
    "activated generation 1: 1 identity",
    "agents.yaml",
    "agents.yaml is valid",
    "1 of 1 invariant hold",
    "240 unchanged, 0 allow→deny, 0 deny→allow, 0 undecided",
    "may no longer:",
    "activated generation 2: 1 identity",
    "undecided: only since",
    "nothing is removed",
    # A month later.
    "shop:reports:*",
    "unused\n",
    "may no longer:",
    "0 allow→deny, 0 deny→allow, 0 undecided",
    "activated generation 3: 1 identity",
)
"""Parts of the output, in their order."""
AGE = """\
import os

import redis

redis.Redis.from_url(os.environ["KEYLEASH_URL"]).eval('''
for _, key in ipairs(redis.call('KEYS', 'keyleash:*')) do
  if redis.call('TYPE', key).ok == 'stream' then
    local entries = redis.call('XRANGE', key, '-', '+')
    redis.call('DEL', key)
    for _, entry in ipairs(entries) do
      local time, number = string.match(entry[1], '(%d+)-(%d+)')
      local id = string.format('%.0f-%s', time - 29 * 24 * 3600 * 1000, number)
      redis.call('XADD', key, id, unpack(entry[2]))
    end
  end
end
''', 0)
"""
"""Makes all that is recorded 29 days older."""
MONTH = "keyleash unused --since 30d"
YOUNG = f"{MONTH} -o young.yaml\npython age.py\npython app.py\n"
"""A month, and what is unused before it."""


@pytest.mark.slow
def test_every_step_runs_from_an_empty_folder(embedded: RealServer, tmp_path: Path) -> None:
    """The application never fails, and a month later what it did not do is no longer allowed."""
    (tmp_path / "app.py").write_text(APPLICATION)
    (tmp_path / "age.py").write_text(AGE)
    (tmp_path / "broad.yaml").write_text(BROAD)
    address = f"127.0.0.1:{free_port()}"
    # KILL ends the script once the gateway has ended.
    ready = "until (: > /dev/tcp/{}) 2> /dev/null; do kill -0 $!; sleep 0.1; done".format(
        address.replace(":", "/")
    )
    steps = "".join(SHELL.findall(PAGE)).replace(MONTH, f"{YOUNG}{MONTH}") + "python app.py\n"
    steps = steps.replace(ADDRESS, f"{address} --admin 127.0.0.1:0", 1)
    steps = steps.replace(ADDRESS, address).replace("&\n", f"&\n{ready}\n")
    steps = steps.replace("python a", f"{sys.executable} a")

    ran = run(embedded, tmp_path, f"set -em\ntrap 'kill -- -$(jobs -p)' EXIT\n{steps}")

    assert_printed(ran.stdout, ran, OUTPUT)
    assert ran.returncode == 0, ran.stderr
    policy = (tmp_path / "narrowed.yaml").read_text()
    assert '"shop:orders:{order_id}:state"' in policy
    assert "shop:reports" in (tmp_path / "young.yaml").read_text()
    assert "shop:reports" not in policy
