"""`keyleash audit report`: one HTML page without external resources, escaped, written whole."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from support.command_line import Cli
from support.scribe import Scribe
from support.servers import RealServer
from support.streams import Streams

RUNNER = "agent-runner"
HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e"
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A page, taken apart.

    Attributes:
        text: What is read.
        tags: All, with their attributes.
        unbalanced: End tags that close something else.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.unbalanced: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text()
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> Iterator[dict[str, str | None]]:
        """Return the attributes of all elements with that name."""
        return (attributes for name, attributes in self.tags if name == tag)


@pytest.fixture
def streams(loaded: Cli, embedded: RealServer) -> Streams:
    """Streams of identities of the example policy, written by the test."""
    return Streams(embedded.client())


@pytest.fixture
def scribe(loaded: Cli, embedded: RealServer) -> Scribe:
    """Writes events with before-images of existing keys."""
    return Scribe(embedded.client())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The path of the page."""
    return tmp_path / "report.html"


def test_report_has_no_scripts_and_external_resources(
    loaded: Cli, streams: Streams, out: Path
) -> None:
    """Links stay on the page; every element is closed."""
    streams.event(RUNNER, "1000-0", key="agents:jobs:1:state", correlation="run-1")
    streams.event(RUNNER, "2000-0", op="DEL", key="agents:jobs:1:state")
    streams.denial(RUNNER, "3000-0", code="KEY_DENIED", reason="agents:jobs:{job_id}:lock")
    token = loaded.token(RUNNER, "--note", "deploy 7")

    loaded.ok("audit", "report", "-o", out)

    page = Page(out)
    assert (page.unbalanced, page.open) == ([], [])
    assert not list(page.named("script"))
    assert "@import" not in page.source
    assert "url(" not in page.source
    links = [value for _, given in page.tags for name, value in given.items() if name == "href"]
    assert links
    assert all(link and link.startswith("#") for link in links)
    assert not [given for _, given in page.tags if "src" in given or "style" in given]
    ids = {given["id"] for _, given in page.tags if "id" in given}
    assert {str(link)[1:] for link in links} <= ids
    for text in ("1970-01-01 00:00:01Z", "agents:jobs:1:state", "KEY_DENIED", "deploy 7", "run-1"):
        assert text in page.text
    assert "budget.writes" in page.text
    assert "20,000 a day, Europe/Berlin" in page.text
    assert token not in page.source


def test_report_has_accessible_markup(loaded: Cli, streams: Streams, out: Path) -> None:
    """Headers have a scope, tables a caption, drawings a title, and the page a language."""
    streams.event(RUNNER, "1000-0")
    streams.denial(RUNNER, "2000-0")

    loaded.ok("audit", "report", "-o", out)

    page = Page(out)
    assert next(page.named("html"))["lang"] == "en"
    assert all("scope" in given for given in page.named("th"))
    assert len(list(page.named("caption"))) == len(list(page.named("table")))
    charts = [given for given in page.named("svg") if given.get("role") == "img"]
    assert charts
    assert all("aria-labelledby" in given or "aria-label" in given for given in charts)
    assert "@media print" in page.source
    assert "prefers-color-scheme: dark" in page.source


def test_report_escapes_untrusted_text(
    loaded: Cli, streams: Streams, scribe: Scribe, out: Path
) -> None:
    """Keys, values, correlation ids, errors, notes and operator names are untrusted."""
    key = f"agents:{HOSTILE}:x"
    streams.client.set(key, HOSTILE)
    scribe.run(RUNNER, "SET", key, HOSTILE * 2, correlation=HOSTILE)
    scribe.run(RUNNER, "HSET", b"h:\xff\x00", HOSTILE, HOSTILE)
    streams.event("human-admin", "1000-0", op=HOSTILE, token=HOSTILE, policy=HOSTILE)
    streams.error("human-admin", "1000-1", "1000-0", error=HOSTILE)
    streams.denial(RUNNER, "1000-0", code=HOSTILE, reason=HOSTILE, op=HOSTILE, key=HOSTILE)
    loaded.token(RUNNER, "--note", HOSTILE)
    control = {"event": HOSTILE, "actor": HOSTILE, HOSTILE: HOSTILE}
    streams.client.xadd("keyleash:control", control)

    loaded.ok("--actor", HOSTILE, "audit", "report", "-o", out)

    page = Page(out)
    assert not list(page.named("script"))
    assert (page.unbalanced, page.open) == ([], [])
    assert "<script>alert(1)</script>\"'&\\x1b[31m\\u202e" in page.text
    assert "h:\\xff\\x00" in page.text
    assert not [char for char in page.source if not (char.isprintable() or char == "\n")]


def test_report_never_shows_a_secret(
    loaded: Cli, streams: Streams, scribe: Scribe, out: Path
) -> None:
    """Tokens in any text are redacted, also if they are truncated."""
    token = loaded.token(RUNNER)
    secret = token.removeprefix(f"kl_{RUNNER}_")
    streams.denial(RUNNER, "1000-0", op=token.upper()[:64], key="x" * 200 + token[:56])
    streams.event(RUNNER, "1000-0", op=f"SET {token}", key="k" * 150 + token, token=token)
    for key, value in ((f"a:{token}:b", token), ("b", "x" * 20 + token)):
        streams.client.set(key, value)
        scribe.run(RUNNER, "SET", key, token, correlation=token)
    scribe.run(RUNNER, "HSET", "h", token, token)

    loaded.ok("audit", "report", "-o", out)

    source = out.read_text()
    assert secret[:6] not in source
    assert secret[:6].upper() not in source
    assert f"kl_{RUNNER}_…" in source


def test_report_has_values_before_and_after_and_conflicts(
    loaded: Cli, scribe: Scribe, out: Path
) -> None:
    """A later change by another identity is a conflict that names it."""
    scribe.client.set("agents:jobs:1:state", "done")
    scribe.client.set("agents:jobs:2:state", "done")
    scribe.run(RUNNER, "SET", "agents:jobs:1:state", "lost", correlation="sweep")
    scribe.run(RUNNER, "SET", "agents:jobs:2:state", "lost", correlation="sweep")
    scribe.run("human-admin", "SET", "agents:jobs:2:state", "by hand", correlation="fix")

    result = loaded.json("audit", "report", "--correlation", "sweep", "-o", out)

    page = Page(out)
    assert (result["entries"], result["conflicts"]) == (2, 1)
    for word in ('string "done"', 'string "lost"', 'string "by hand"', "unchanged since"):
        assert word in page.text
    assert "conflict: changed since by `human-admin`: SET" in page.text
    assert "keyleash undo --correlation sweep --dry-run" in page.text


def test_undo_command_in_the_report_has_the_same_plan(
    loaded: Cli, scribe: Scribe, out: Path
) -> None:
    """It can be copied from the page."""
    scribe.run(RUNNER, "SET", "agents:jobs:1:state", "x")
    loaded.ok("audit", "report", "--since", "1h", "--until", "2100-01-01", "-o", out)
    start = Page(out).text.split("keyleash undo --key '*' ")[1]
    words = start.split(" --dry-run")[0].split()

    plan = loaded.json("undo", "--key", "*", *words, "--dry-run")

    assert words[0] == "--since"
    assert words[2:] == ["--until", "2100-01-01T00:00:00.000Z"]
    assert [item["key"] for item in plan["keys"]] == ["agents:jobs:1:state"]


def test_undo_until_leaves_later_events_as_conflicts(loaded: Cli, scribe: Scribe) -> None:
    """Later changes of the same key are not undone."""
    scribe.run(RUNNER, "SET", "agents:jobs:1:state", "x", entry_id="1000-0")
    later = scribe.run("human-admin", "SET", "agents:jobs:1:state", "y")
    times = ("--since", "1970-01-01", "--until", "1970-01-01T00:00:02")

    plan = loaded.json("undo", "--key", "agents:*", *times, "--dry-run", exit_code=1)

    assert [item["event"] for item in plan["keys"][0]["events"]] == [f"{RUNNER}/1000-0"]
    assert plan["keys"][0]["conflicts"][0]["by"][0]["event"] == f"human-admin/{later}"


def test_report_of_many_events_shows_the_first_and_the_last(
    loaded: Cli, streams: Streams, out: Path
) -> None:
    """All are counted, and gaps are reported."""
    with streams.client.pipeline(transaction=False) as pipe:
        writer = Streams(pipe)
        for number in range(1, 3001):
            writer.event(RUNNER, f"{number * 1000}-0", key=f"a{number}:b:c", seq=number + 7)
        pipe.execute()

    loaded.ok("audit", "report", "-o", out)

    page = Page(out)
    assert len(page.source) < 150_000
    assert "2,900 entries left out;" in " ".join(page.text.split())
    assert "3,000 operations" in page.text
    assert "2,980 more prefixes" in page.text
    assert "The beginning may be missing" in page.text
    assert len([given for given in page.named("rect") if given.get("class") == "c0"]) <= 92


@pytest.mark.parametrize("kind", ["event", "denial"])
def test_report_of_one_kind_alone_has_all_sections(
    loaded: Cli, streams: Streams, out: Path, kind: str
) -> None:
    """A range without denials, or without events, is not an error."""
    getattr(streams, kind)(RUNNER, "1000-0")

    loaded.ok("audit", "report", "--identity", RUNNER, "-o", out)

    ids = {given.get("id") for given in Page(out).named("section")}
    assert {"timeline", "limits", "context", "denials", "keys", "undo", "events"} <= ids


def test_report_of_an_empty_range_writes_no_file(loaded: Cli, streams: Streams, out: Path) -> None:
    """Exit code 1 with a message; an existing file stays."""
    streams.event(RUNNER, "1000-0")
    empty = loaded.run("audit", "report", "--since", "1h", "-o", out)

    assert empty.exit_code == 1
    assert "error: no event or denial since" in empty.stderr
    assert not out.exists()
    out.write_text("mine")
    assert loaded.run("audit", "report", "--correlation", "no", "-o", out).exit_code == 1
    assert out.read_text() == "mine"
    assert loaded.run("audit", "report", "--identity", "unknown", "-o", out).exit_code == 2


def test_report_replaces_a_file_atomically_with_private_permissions(
    loaded: Cli, streams: Streams, out: Path, tmp_path: Path
) -> None:
    """No temporary file is left."""
    streams.event(RUNNER, "1000-0")
    out.write_text("old")

    loaded.ok("audit", "report", "-o", out)

    assert out.read_text().startswith("<!doctype html>")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert sorted(tmp_path.iterdir()) == [out]


def test_report_that_cannot_be_written_names_the_path(
    loaded: Cli, streams: Streams, tmp_path: Path
) -> None:
    """As with every command."""
    streams.event(RUNNER, "1000-0")

    missing = loaded.run("audit", "report", "-o", tmp_path / "no" / "report.html")
    folder = loaded.run("audit", "report", "-o", tmp_path)
    nowhere = loaded.run("audit", "report")

    assert missing.exit_code == 1
    assert "no such file or directory" in missing.stderr
    assert folder.exit_code == 2
    assert nowhere.exit_code == 2
