"""An agent with plain redis-py: REDIS_URL has the gateway's address, and the token as password."""

import os
import time

import redis

client = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
try:
    client.get("agents:context:42")
except redis.ResponseError as denial:
    print(f"denied: {denial}")
while True:
    client.set("agents:jobs:42:state", "running")
    print("agents:jobs:42:state is", client.get("agents:jobs:42:state"))
    time.sleep(10)
