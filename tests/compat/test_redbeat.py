from __future__ import annotations

from typing import Any

from celery.schedules import schedule

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "celery-redbeat",
    recipe="""
from celery import Celery
from redbeat import RedBeatScheduler, RedBeatSchedulerEntry

app = Celery("jobs", broker=url)
pool = keyleash.pool(url, token, decode_responses=True)
app.redbeat_redis = redis.Redis(connection_pool=pool)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["redbeat:*"]}
""",
    note="The broker's connections are those of Celery: see [celery](#celery).",
)


@every_scheme
def test_schedule_is_stored(recipe: Any) -> None:
    """Entries: save, load, run times, the lock of the scheduler, and delete"""
    app = recipe.app
    entry = recipe.RedBeatSchedulerEntry("e", "add", schedule(60), args=[1, 2], app=app)
    entry.save()
    found = recipe.RedBeatSchedulerEntry.from_key(entry.key, app=app)
    assert (found.task, found.args) == ("add", [1, 2])
    scheduler = recipe.RedBeatScheduler(app, lazy=True)
    scheduler.setup_schedule()
    scheduler.lock = scheduler.app.redbeat_redis.lock("redbeat::lock", timeout=5)
    assert scheduler.lock.acquire(blocking=False)
    assert entry.name in scheduler.schedule
    scheduler.reserve(entry)
    scheduler.close()
    found.delete()
    assert app.redbeat_redis.exists(entry.key) == 0
