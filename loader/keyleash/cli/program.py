"""The root command: its global options, and the one place from which an error leaves."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from keyleash import __version__
from keyleash.cli import (
    audit,
    check,
    compile,
    doctor,
    exec,
    explain,
    freeze,
    limits,
    load,
    metrics,
    policy,
    serve,
    status,
    test,
    token,
    watch,
    whoami,
)
from keyleash.cli.demo import command as demo
from keyleash.cli.failures import BUG, FAILED, USAGE, failure_of, report
from keyleash.cli.fence import fence
from keyleash.cli.options import Group, duration_s, json_option, refuse_typed_password
from keyleash.cli.plan import plan
from keyleash.cli.settings import DEFAULT_URL, MAX_TIMEOUT_S, TIMEOUT_S, Settings
from keyleash.cli.terminal import Ended, is_plain
from keyleash.cli.undo import undo
from keyleash.cli.vault import vault
from keyleash.text import printable

INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE


# Click 8.1 prints the help and leaves by itself.
_NEEDS_COMMAND = getattr(click.exceptions, "NoArgsIsHelpError", ())


class Program(Group):
    """A group that reports every expected error in the project's own words."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command and exit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            code = self._run(words, prog_name=prog_name, complete_var=complete_var, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            code = _without_a_reader()
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; click would make 1 of the end of a pipe, which says something else."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise click.exceptions.Exit(_without_a_reader()) from None

    def _run(self, words: list[str], **extra: Any) -> int:
        """Run the command and return its exit code."""
        settings = Settings()
        try:
            code = super().main(words, standalone_mode=False, obj=settings, **extra)
        except (click.Abort, KeyboardInterrupt, Ended):
            click.echo("interrupted", err=True)
            return INTERRUPTED
        except _NEEDS_COMMAND as error:
            click.echo(error.format_message(), err=True)
            return USAGE
        except Exception as error:
            failure = failure_of(error, settings.shown_url)
            if failure is None:
                traceback.print_exception(error)
                failure = BUG
            report(failure, as_json=settings.json or _asks_for_json(words))
            return settings.failed if failure.exit_code == FAILED else failure.exit_code
        # Help and version end with a code, and commands with nothing.
        return code if isinstance(code, int) else 0


def _without_a_reader() -> int:
    """End quietly, with the code that shells give it: whoever read our output has enough."""
    # Or Python would complain once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE


def _asks_for_json(words: list[str]) -> bool:
    """Whether `--json` stands before any `--`; for errors that come before it is parsed."""
    ours = words[: words.index("--")] if "--" in words else words
    return "--json" in ours


def _timeout_s(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """Read `--timeout`: a number of seconds, or a duration of the policy language."""
    if value is None:
        return None
    try:
        seconds: float | None = float(value)
    except ValueError:
        seconds = duration_s(context, parameter, value)
    if seconds is None or not 0 < seconds <= MAX_TIMEOUT_S:
        raise click.BadParameter(
            f"`{printable(value)}` is not over 0 and at most {MAX_TIMEOUT_S:.0f} seconds"
        )
    return seconds


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nexit codes: 0 done, 1 refused or failed, 2 usage, 65 bad policy,\n"
    "            66 input file unreadable, 69 server out of reach or not supported,\n"
    "            70 defect of keyleash, 76 reply is none of Redis, 77 not permitted by the server\n"
    "example:    keyleash demo",
)
@click.option(
    "--url",
    envvar="KEYLEASH_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    help="The server. A URL with a password is taken from the variable alone: options are seen "
    "in the process list.",
)
@click.option(
    "--actor",
    envvar="KEYLEASH_ACTOR",
    show_envvar=True,
    help="Who you are, for the record of changes.  [default: your user name]",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    callback=_timeout_s,
    envvar="KEYLEASH_TIMEOUT",
    show_envvar=True,
    help="How long to wait for a connection, and for each reply, such as 0.5 or 5s; nothing is"
    " tried again."
    f"  [default: {TIMEOUT_S:g}]",
)
@json_option
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context, url: str, actor: str | None, timeout: float | None) -> None:
    """Scoped, short-lived, budgeted and audited credentials for agents, enforced inside Redis."""
    if is_plain():
        context.color = False
    settings: Settings = context.obj
    refuse_typed_password("url", url, "KEYLEASH_URL")
    settings.url = url
    settings.given_actor = actor
    settings.timeout_s = timeout


for command in (
    check.check,
    compile.compile_,
    plan,
    load.load,
    load.rollback,
    policy.policy,
    status.status,
    doctor.doctor,
    metrics.metrics,
    token.token,
    freeze.identity,
    freeze.freeze_,
    freeze.thaw_,
    limits.limits,
    fence,
    audit.audit,
    undo,
    vault,
    test.test,
    exec.exec_,
    explain.explain,
    explain.can_i,
    whoami.whoami,
    serve.serve,
    watch.watch,
    demo.demo,
):
    main.add_command(command)
