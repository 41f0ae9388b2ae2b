from __future__ import annotations

from typing import Any

import flask

from compat.conftest import Guarded, every_scheme
from compat.page import Library

LIBRARY = Library(
    "Flask-Session",
    recipe="""
from flask import Flask
from flask_session import Session

app = Flask("app")
app.config["SESSION_TYPE"] = "redis"
app.config["SESSION_REDIS"] = redis.Redis(connection_pool=keyleash.pool(url, token))
Session(app)
""",
    policy="""
version: 1
identities:
  agent-runner:
    kind: machine
    grants:
      - {allow: [read, write, delete], keys: ["session:*"]}
""",
)


@every_scheme
def test_session_is_kept_between_requests(recipe: Any, guarded: Guarded) -> None:
    """Sessions: write, read, expire and clear"""
    app = recipe.app

    @app.get("/set")
    def write() -> str:
        flask.session["a"] = 1
        return ""

    @app.get("/get")
    def read() -> str:
        return str(flask.session.get("a"))

    @app.get("/clear")
    def clear() -> str:
        flask.session.clear()
        return ""

    client = app.test_client()
    client.get("/set")
    assert client.get("/get").text == "1"
    client.get("/clear")
    assert client.get("/get").text == "None"
