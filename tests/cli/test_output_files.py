"""Files that commands write: whole or not at all, and never through a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from keyleash.cli.errors import OutputFileError
from keyleash.cli.output import write_output
from support.command_line import Cli
from support.servers import RealServer
from support.trails import Trails

RUNNER = "agent-runner"


def test_link_is_not_written_through_by_any_command(
    loaded: Cli, trails: Trails, example: Path, tmp_path: Path
) -> None:
    """Whoever may put a link into a shared folder must not choose which file is replaced."""
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
        assert "is a symbolic link, and is not written to\nhelp: " in result.stderr

    assert victim.read_text() == "mine"
    assert not (tmp_path / "new").exists()


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

    with pytest.raises(OutputFileError, match="no regular file"):
        write_output(pipe, b"x")

    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.fixture
def trails(loaded: Cli, embedded: RealServer) -> Trails:
    """Trails of identities of the example policy, written by hand."""
    return Trails(embedded.client())


@pytest.mark.parametrize("name", ["draft.tmp", "lock"])
def test_export_follows_no_link_in_its_folder(
    loaded: Cli, trails: Trails, tmp_path: Path, name: str
) -> None:
    """Nor does it empty what a link of its lock's name leads to."""
    from keyleash.audit.export.archive import LOCK

    trails.event(RUNNER, "1000-0")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / (LOCK if name == "lock" else name)).symlink_to(victim)

    loaded.run("audit", "export", "--to", archive)

    assert victim.read_text() == "mine"
