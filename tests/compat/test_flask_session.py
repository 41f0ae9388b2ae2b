from __future__ import annotations

import flask
from flask_session import Session

from compat.conftest import Guarded

LIBRARY = "Flask-Session"
CLIENT = """
app.config["SESSION_TYPE"] = "redis"
app.config["SESSION_REDIS"] = redis.Redis(connection_pool=keyleash.pool(url, token))
flask_session.Session(app)
"""


def test_session_is_kept_between_requests(guarded: Guarded) -> None:
    """Sessions: write, read, expire and clear"""
    app = flask.Flask("app")
    app.config["SESSION_TYPE"] = "redis"
    app.config["SESSION_REDIS"] = guarded.client()
    Session(app)

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
