"""The root command: its global options, and the report of every error."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from keyleash import __version__
from keyleash.cli.failures import BUG, USAGE, failure_of, report
from keyleash.cli.options import Group, json_option, reading, refuse_typed_password
from keyleash.cli.settings import Settings, settings_of
from keyleash.cli.terminal import Ended, is_plain, require_output
from keyleash.errors.operations import FAILED, UsageError
from keyleash.store.connect import DEFAULT_URL, TIMEOUT_S, parse_timeout
from keyleash.text import with_links

INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE

# Click 8.1 prints the help and exits by itself.
_NO_COMMAND_ERRORS = getattr(click.exceptions, "NoArgsIsHelpError", ())

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Policy": {
        "check": ("check:check", "Validate and lint a policy file."),
        "test": ("test:test", "Run the unit tests of a policy."),
        "plan": ("plan:plan", "Show what loading a policy file would change."),
        "load": ("load:load", "Activate a policy file atomically."),
        "rollback": ("load:rollback", "Activate an earlier policy again."),
        "policy": ("policy:policy", "Show the active policy and its history."),
        "learn": ("learn:learn", "Write a policy of what recorded calls needed."),
        "backtest": ("backtest:backtest", "Decide recorded calls by another policy."),
        "unused": ("backtest:unused", "List what no recorded call needed."),
        "explain": ("explain:explain", "Explain a decision, step by step."),
        "can-i": ("explain:can_i", "Check whether an identity may run a command."),
        "schema": ("compile:schema", "Print the JSON Schema of policy files, for editors."),
        "scripts": ("scripts:scripts", "Approve the scripts of a library; list refused ones."),
        "compile": ("compile:compile_", "Compile a policy file into Lua scripts."),
    },
    "Tokens": {
        "token": ("token:token", "Issue, renew, rotate, list, show and revoke tokens."),
        "whoami": ("whoami:whoami", "Show the identity, grants and limits of a token."),
        "exec": ("exec:exec_", "Run a command with a token."),
        "freeze": ("freeze:freeze_", "Suspend one or more identities."),
        "thaw": ("freeze:thaw_", "Resume suspended identities."),
    },
    "Audit": {
        "audit": ("audit:audit", "Read, follow, export and report the audit log."),
        "undo": ("undo:undo", "Restore the values that keys had before some events."),
    },
    "Operations": {
        "gateway": ("gateway:gateway", "Let agents use any Redis client, by a URL alone."),
        "mcp": ("mcp:mcp", "Let language models use Redis, by MCP."),
        "status": ("status:status", "Show identities, tokens, limits and recent denials."),
        "doctor": ("doctor:doctor", "Diagnose problems (read-only)."),
        "limits": ("limits:limits", "Reset the counters of rate limits and budgets."),
        "budget": ("limits:budget", "Return units that nodes of a cluster have not used."),
        "metrics": ("metrics:metrics", "Print or serve metrics for Prometheus."),
    },
    "Hardening": {"acl": ("acl:acl", "Print the ACL rules of an operator's or an agent's user.")},
    "Try it": {
        "init": ("init:init", "Write a first policy, its tests and an example of settings."),
        "examples": ("init:examples", "List and copy the example policies."),
        "demo": ("demo:demo", "Run a self-checking demo."),
        "serve": ("serve:serve", "Run a local development server."),
        "completion": ("compile:completion", "Print the completion script of a shell."),
    },
}
"""The commands by section of the help: the attribute below `keyleash.cli`, and a summary."""

COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}

_GONE = {
    "watch": (
        "clients load missing scripts themselves",
        "`keyleash status` names nodes of a cluster that lack some",
    ),
    "fence": (
        "agents that are not trusted connect to `keyleash gateway`",
        "`keyleash doctor` prints the command that removes the users of agents",
    ),
}
"""Commands of earlier versions: what takes their place, and the help."""


class Program(Group):
    """The root group: imports the module of a command on use, and reports every expected error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command *cmd_name*, importing its module."""
        if cmd_name in _GONE and not ctx.resilient_parsing:
            what, help_ = _GONE[cmd_name]
            raise UsageError(f"`{cmd_name}` is gone: {what}", help=help_)
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(
            importlib.import_module(f"keyleash.cli.{module}"), attribute
        )
        command.help = with_links(command.help or "")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, without importing them."""
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), summary) for name, (_, summary) in commands.items()]
                )

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the names and options that begin with *incomplete*, without importing them."""
        names = [
            CompletionItem(name, help=summary)
            for name, (_, summary) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> Any:
        """Run the command and exit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        code = 0
        try:
            code = self._run(words, **extra)
            sys.stdout.flush()
        except OSError as error:
            # Of standard output, as was reported, or of standard error.
            broken = _discard_output()
            code = code or (broken if isinstance(error, BrokenPipeError) else FAILED)
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; click would exit with 1 after a broken pipe."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise click.exceptions.Exit(_discard_output()) from None

    def _run(self, words: list[str], **extra: Any) -> int:
        """Run the command and return its exit code."""
        settings = Settings()
        try:
            require_output()
            code = super().main(words, standalone_mode=False, obj=settings, **extra)
        except (click.Abort, KeyboardInterrupt, Ended):
            click.echo("interrupted", err=True)
            return INTERRUPTED
        except _NO_COMMAND_ERRORS as error:
            click.echo(error.format_message(), err=True)
            return USAGE
        except Exception as error:
            failure = failure_of(error, settings.shown_url, settings.operation)
            if failure is None:
                traceback.print_exception(error)
                failure = BUG
            report(failure, as_json=settings.json or _has_option(words, "--json"))
            if _has_option(words, "--exit-code"):
                # The other codes stand for results.
                return FAILED
            return settings.failed if failure.exit_code == FAILED else failure.exit_code
        # Most commands return None.
        return code if isinstance(code, int) else 0


def _discard_output() -> int:
    """Discard further output; return the exit code after a broken pipe, as shells do."""
    # Otherwise Python reports the error again at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE


def _has_option(words: list[str], option: str) -> bool:
    """Return whether *option* is before any `--`; for errors before options are parsed."""
    return option in (words[: words.index("--")] if "--" in words else words)


def _note(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Note an option about the server, which may come before the command and after it."""
    settings, name = settings_of(context), str(parameter.name)
    if value is None:
        return
    if name == "timeout_s":
        value = reading(parse_timeout)(context, parameter, value)
    if name == "url":
        refuse_typed_password("url", value, "KEYLEASH_URL")
        settings.is_url_given = context.get_parameter_source(name) is not ParameterSource.DEFAULT
        if not settings.is_url_given and "KEYLEASH_URL" in os.environ:
            # It is empty, such as a secret that CI lacks: the default may be another server.
            value = ""
    setattr(settings, name, value)


@click.group(
    cls=Program,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog="\b\nexit codes: 0 success, 1 denied or failed, 2 usage, 3 undecided, 65 bad policy,\n"
    "            66 input file unreadable, 69 server unreachable or not supported,\n"
    "            70 bug in keyleash, 76 not a Redis reply, 77 not permitted by the server\n"
    "example:    keyleash demo",
)
@click.option(
    "--url",
    envvar="KEYLEASH_URL",
    default=DEFAULT_URL,
    show_envvar=True,
    expose_value=False,
    callback=_note,
    help="The server, or several between commas, of which the first that answers is used. Passwords"
    " are only accepted in the variable: arguments are visible in the process list. This and the"
    " next two are also accepted after the command.",
)
@click.option(
    "--actor",
    "given_actor",
    envvar="KEYLEASH_ACTOR",
    show_envvar=True,
    expose_value=False,
    callback=_note,
    help="Name recorded in the audit log.  [default: your user name]",
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    envvar="KEYLEASH_TIMEOUT",
    show_envvar=True,
    expose_value=False,
    callback=_note,
    help="Time to wait for a connection and for each reply, such as 0.5 or 5s; no retries."
    f"  [default: {TIMEOUT_S:g}]",
)
@json_option
@click.version_option(__version__, "--version", message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Scoped, short-lived, budgeted and audited credentials for agents, enforced inside Redis."""
    if is_plain():
        context.color = False
