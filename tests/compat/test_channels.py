from __future__ import annotations

import asyncio
from typing import Any

from compat.conftest import every_scheme
from compat.page import Library
from compat.scripts import scripts_of

LIBRARY = Library(
    "channels_redis",
    recipe="""
from channels_redis.core import RedisChannelLayer


class GuardedChannelLayer(RedisChannelLayer):
    def create_pool(self, index):
        return keyleash.asyncio.pool(self.hosts[index]["address"], token)


layer = GuardedChannelLayer(hosts=[url])
""",
    policy="""
version: 1
scripts:
  clean: {file: 1.lua}
  group-send: {file: 2.lua}
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["asgi*"], scripts: [clean, group-send]}
""",
    scripts=[text for text in scripts_of("channels_redis.core") if "'keys'" not in text],
    texts="the texts in `RedisChannelLayer._brpop_with_clean` and `group_send`",
)


@every_scheme
def test_messages_reach_channels_and_groups(recipe: Any) -> None:
    """Channels, groups, messages with an expiry"""

    async def use() -> Any:
        layer = recipe.layer
        name = await layer.new_channel()
        await layer.send(name, {"type": "a"})
        first = await layer.receive(name)
        await layer.group_add("g", name)
        await layer.group_send("g", {"type": "b"})
        second = await layer.receive(name)
        await layer.group_discard("g", name)
        await layer.close_pools()
        return first["type"], second["type"]

    assert asyncio.run(use()) == ("a", "b")
