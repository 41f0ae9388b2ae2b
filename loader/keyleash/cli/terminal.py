"""Read input, print lines and JSON, write output files, and handle signals."""

from __future__ import annotations

import json
import os
import secrets
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import get_terminal_size
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from keyleash.errors import OperationError
from keyleash.policy.files import bounded, decoded, read_bytes
from keyleash.text import to_json

if TYPE_CHECKING:
    from keyleash.api import Policy


def require_output() -> None:
    """Open the null device in place of a closed standard input or error.

    Standard output must be open, since a new token would be lost.
    """
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:
        # For as long as the process lives.
        setattr(sys, name, open(os.devnull, "w" if name == "stderr" else "r"))  # noqa: SIM115
    if "stdout" in closed:
        raise OperationError("system", "standard output is closed", help="redirect it", exit_code=1)


def print_json(value: Any) -> None:
    """Print the document of a run with `--json`, encoded by `to_json`."""
    click.echo(json.dumps(to_json(value), indent=2))


def print_json_line(value: Any) -> None:
    """Print one object of a list with `--json` on one line, encoded by `to_json`."""
    click.echo(json.dumps(to_json(value)))


def print_note(line: str) -> None:
    """Print a note on standard error."""
    click.echo(line, err=True)


STANDARD_INPUT = "-"


def read_text(file: str) -> tuple[str, str]:
    """Return a policy file's name for messages, and its text; `-` is standard input."""
    name = "<stdin>" if file == STANDARD_INPUT else file
    return name, decoded(name, read_input(file))


def read_policy(file: str) -> Policy:
    """Return the policy of a file, which may have problems; see `read_text`."""
    # Imported here: it is heavy, and help does not need it.
    from keyleash.api import Policy  # noqa: PLC0415

    name, text = read_text(file)
    return Policy(text, file=name)


def read_input(file: str) -> bytes:
    """Read a file; `-` is standard input."""
    return bounded("<stdin>", sys.stdin.buffer) if file == STANDARD_INPUT else read_bytes(file)


def write_output(path: Path, data: bytes, mode: int = 0o666, *, is_new: bool = False) -> None:
    """Write an output file atomically, and wait until it is on disk.

    It is written beside *path* and renamed, so a symbolic link at *path* is never followed, even
    if it is created meanwhile. With *is_new* an existing file is an error, and the new one is
    written in place. *mode* are its permissions, less the process's umask.
    """
    with suppress(FileNotFoundError):
        found = path.lstat().st_mode
        if is_new or not stat.S_ISREG(found):
            kind = "a symbolic link" if stat.S_ISLNK(found) else "not a regular file"
            raise OperationError(
                "file",
                f"`{path}` {'exists' if is_new else f'is {kind}'}, and was not written",
                help="name a new file" if is_new else "name a regular file, or a new one",
                exit_code=1,
            )
    draft = path if is_new else path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    is_created = False
    try:
        with os.fdopen(os.open(draft, flags, mode), "wb") as file:
            is_created = True
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException as error:
        if is_created:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def screen_rows(most: int, besides: int = 6) -> int:
    """Return the rows that fit the screen with *besides* others, such as warnings, up to *most*."""
    return max(1, min(most, get_terminal_size((80, most + besides)).lines - besides))


def is_plain() -> bool:
    """Return whether NO_COLOR is set and not empty (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))


ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RETRY_S = 0.01


class Ended(BaseException):
    """A signal ends the program. Not an Exception, so that no handler takes it for a failure."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise `Ended` on SIGINT, SIGTERM and SIGHUP, so that a command can clean up."""
    is_ending, raised = False, 0

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal is_ending, raised
        # A second signal must not interrupt the clean-up.
        if not is_ending:
            is_ending, raised = True, raised + 1
            raise Ended(number)

    def again(lost: sys.UnraisableHookArgs) -> None:
        # Python drops an exception raised in a finalizer, and the program would not end.
        nonlocal is_ending
        if not isinstance(lost.exc_value, Ended):
            hook(lost)
            return
        sender = threading.Thread(target=send, args=(lost.exc_value.args[0], raised), daemon=True)
        try:
            sender.start()
        finally:
            # Last: what is raised in this hook is dropped as well.
            is_ending = False

    def send(number: int, dropped: int) -> None:
        time.sleep(RETRY_S)
        while raised == dropped:
            os.kill(os.getpid(), number)
            time.sleep(RETRY_S)

    before = {number: signal.signal(number, end) for number in ENDING_SIGNALS}
    hook, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield
    finally:
        raised = 0
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def until_signal(note: str = "") -> Iterator[None]:
    """Run to the end or to a signal, which ends it with a note on standard error."""
    try:
        with ended_by_signals():
            yield
    except Ended:
        if note:
            print_note(note)
