"""Files that commands write: whole or not at all, and never through a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from keyleash.cli.terminal import write_output
from support.command_line import Cli
from support.errors import raises_code
from support.servers import RealServer
from support.streams import Streams

RUNNER = "agent-runner"


def test_link_is_not_written_through_by_any_command(
    loaded: Cli, trails: Streams, example: Path, tmp_path: Path
) -> None:
    """A link in a shared directory must not redirect the output."""
    trails.event(RUNNER, "1000-0")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "shared"
    folder.mkdir()
    for name in ("report.html", f"{RUNNER}.lua", "dangling.html"):
        (folder / name).symlink_to(tmp_path / "new" if "dangling" in name else victim)

    for words in (
        ("audit", "report", "-o", folder / "report.html"),
        ("audit", "report", "-o", folder / "dangling.html"),
        ("compile", example, "-o", folder),
    ):
        result = loaded.run(*words)
        assert result.exit_code == 1
        assert "is a symbolic link, and was not written\nhelp: " in result.stderr

    assert victim.read_text() == "mine"
    assert not (tmp_path / "new").exists()


def test_report_goes_to_standard_output_for_a_dash(loaded: Cli, trails: Streams) -> None:
    """And no file of that name is made."""
    trails.event(RUNNER, "1000-0")

    result = loaded.run("audit", "report", "--since", "1970-01-01", "-o", "-")

    assert result.exit_code == 0
    assert result.stdout.startswith("<!")
    assert result.stderr == "1 entry reported on standard output\n"
    assert not Path("-").exists()
    assert loaded.run("audit", "report", "--json", "-o", "-").exit_code == 2


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_output_that_cannot_be_written_is_named_as_it_was_given(
    loaded: Cli, trails: Streams, tmp_path: Path, folder: str
) -> None:
    """And not by the name of the draft."""
    trails.event(RUNNER, "1000-0")
    (tmp_path / "file").write_text("")
    out = tmp_path / folder / "report.html"

    result = loaded.run("audit", "report", "--since", "1970-01-01", "-o", out)

    assert result.exit_code == 1
    assert f"error: cannot use `{out}`: " in result.stderr


def test_link_in_the_place_of_a_directory_is_named(
    loaded: Cli, trails: Streams, example: Path, tmp_path: Path
) -> None:
    """A link to a file and a dangling link are both rejected."""
    trails.event(RUNNER, "1000-0")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name, target in (("link", victim), ("dangling", tmp_path / "new")):
        (tmp_path / name).symlink_to(target)
        for words in (("compile", example, "-o"), ("audit", "export", "--to")):
            result = loaded.run(*words, tmp_path / name)
            assert result.exit_code in {1, 2}
            assert "symbolic link" in result.stderr, words

    assert victim.read_text() == "mine"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["archive.json", f"audit/{RUNNER}/cursor.json"])
def test_link_in_the_place_of_a_record_of_an_archive_is_named(
    loaded: Cli, trails: Streams, tmp_path: Path, name: str
) -> None:
    """The target of a symbolic link stays unchanged."""
    trails.event(RUNNER, "1000-0")
    archive = tmp_path / "archive"
    loaded.ok("audit", "export", "--to", archive)
    (tmp_path / "victim").write_text("mine")
    (archive / name).unlink()
    (archive / name).symlink_to(tmp_path / "victim")

    result = loaded.run("audit", "export", "--to", archive)

    assert result.exit_code == 1
    assert "help: it is a symbolic link: replace it with the file" in result.stderr


def test_link_that_comes_between_the_look_and_the_write_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is taken by a rename, which follows nothing."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    out = tmp_path / "out"
    sync = os.fsync

    def put_a_link(descriptor: int) -> None:
        out.symlink_to(victim)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", put_a_link)

    write_output(out, b"report")

    assert victim.read_text() == "mine"
    assert not out.is_symlink()
    assert out.read_bytes() == b"report"


def test_file_that_is_there_is_replaced_whole_with_the_mode_that_was_asked_for(
    tmp_path: Path,
) -> None:
    """A reader of the old file keeps it, and no draft is left."""
    out = tmp_path / "out"
    out.write_text("old")
    with out.open() as reader:
        write_output(out, b"new", 0o600)
        assert reader.read() == "old"

    assert out.read_bytes() == b"new"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [*tmp_path.iterdir()] == [out]


def test_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """As root, `-o /dev/null` would otherwise be the end of it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with raises_code("file", match="not a regular file"):
        write_output(pipe, b"x")

    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.fixture
def trails(loaded: Cli, embedded: RealServer) -> Streams:
    """Streams of identities of the example policy, written by hand."""
    return Streams(embedded.client())


@pytest.mark.parametrize("name", ["draft.tmp", "lock"])
def test_export_follows_no_link_in_its_folder(
    loaded: Cli, trails: Streams, tmp_path: Path, name: str
) -> None:
    """Nor does it empty what a link of its lock's name leads to."""
    from keyleash.addons.export.archive import LOCK

    trails.event(RUNNER, "1000-0")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / (LOCK if name == "lock" else name)).symlink_to(victim)

    loaded.run("audit", "export", "--to", archive)

    assert victim.read_text() == "mine"
