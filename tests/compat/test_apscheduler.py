from __future__ import annotations

import threading
from typing import Any

from compat.conftest import every_scheme
from compat.page import Library

LIBRARY = Library(
    "APScheduler",
    recipe="""
from apscheduler.jobstores.redis import RedisJobStore
from apscheduler.schedulers.background import BackgroundScheduler

store = RedisJobStore(connection_pool=keyleash.pool(url, token))
scheduler = BackgroundScheduler(jobstores={"default": store})
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: [apscheduler.jobs, apscheduler.run_times]}
""",
)


DONE = threading.Event()


def finish() -> None:
    DONE.set()


@every_scheme
def test_scheduler_runs_jobs(recipe: Any) -> None:
    """Job store: add, find, run, change and remove jobs"""
    DONE.clear()
    recipe.scheduler.start()
    later = recipe.scheduler.add_job(finish, "interval", hours=1)
    recipe.scheduler.add_job(finish)
    assert DONE.wait(60)
    later.pause()
    assert [job.id for job in recipe.scheduler.get_jobs()] == [later.id]
    later.remove()
    assert recipe.scheduler.get_job(later.id) is None
    recipe.scheduler.shutdown()
