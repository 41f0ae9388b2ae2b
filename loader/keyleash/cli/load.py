"""`keyleash load` and `keyleash rollback`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from keyleash.api.loading import check_consent
from keyleash.cli.failures import warn
from keyleash.cli.nodes import show_nodes, wait_option
from keyleash.cli.options import (
    FILE,
    all_of,
    allow_eviction_option,
    allow_removal_option,
    allow_unvalidated_restore_option,
    allow_widening_option,
    example,
    full_option,
    require_consent,
    with_settings,
    yes_option,
)
from keyleash.cli.progress import progress
from keyleash.cli.settings import Settings
from keyleash.cli.target import require_target
from keyleash.cli.terminal import is_plain, print_note, read_policy
from keyleash.errors import OperationError, UsageError
from keyleash.text import counted

if TYPE_CHECKING:
    from keyleash.operator.load.activate import LoadResult
    from keyleash.operator.load.load_plan import LoadPlan


def _load(
    settings: Settings,
    make_plan: Callable[..., LoadPlan],
    *,
    allow_widening: bool,
    allow_removal: bool,
    full: bool,
    wait: bool,
    yes: bool,
    **allowed: bool,
) -> int:
    """Activate a policy after consent to its plan; return the exit code.

    *make_plan* returns the plan, given *allowed* and a progress callback.
    """
    target, summary = require_target(settings, yes=yes)
    if summary.primary:
        raise OperationError(
            "read-only", f"the server is a replica of {summary.primary}", help="use its primary"
        )
    with progress("compiling", is_wanted=not settings.json) as report:
        plan = make_plan(**allowed, progress=report)
    if not settings.json:
        warn(plan.prepared.warnings)
    if plan.is_empty:
        settings.name_server()
    else:
        print_plan(target, plan, full=full, err=True)
        if yes:
            check_consent(plan, allow_widening=allow_widening, allow_removal=allow_removal)
        require_consent(_question(plan), yes, "nothing was activated")
    try:
        with progress("loading", is_wanted=not settings.json) as report:
            # Without `--yes` the user has agreed to all of the plan.
            result = settings.operator.apply(
                plan,
                allow_widening=allow_widening or not yes,
                allow_removal=allow_removal or not (yes or plan.is_empty),
                progress=report,
            )
    except (KeyboardInterrupt, ConnectionError, TimeoutError):
        print_note(_interrupted_load(settings, plan))
        raise
    if settings.json:
        settings.print_change(result)
    else:
        _show_result(result)
    return show_nodes(settings, result, wait=wait)


def _show_result(result: LoadResult) -> None:
    if not result.changed:
        click.echo(f"already active as generation {result.generation}; nothing changed")
        return
    count = counted(len(result.identities), "identity")
    click.echo(f"activated generation {result.generation}: {count}")
    print_note("verified: records, states and scripts match")
    if result.generation == 1:
        print_note("next: run `keyleash doctor`, which examines the server")


def _question(plan: LoadPlan) -> str:
    effects = ["activate"]
    if plan.removed:
        effects.append(f"remove {counted(len(plan.removed), 'identity')}")
    if plan.preview.needs_permission:
        effects.append(f"widen access of {counted(len(plan.widened), 'identity')}")
    return f"{', and '.join(effects)}?"


def _interrupted_load(settings: Settings, plan: LoadPlan) -> str:
    """Return the outcome of an interrupted load, as far as the server can be asked."""
    try:
        active = settings.operator.policies.active()
    except RedisError:
        return "the policy may be active: see `keyleash status`"
    if active is None or active.generation == plan.preview.generation:
        return "nothing was activated"
    if active.digest != plan.digest:
        return f"another policy is active as generation {active.generation}"
    return f"active as generation {active.generation}, but not verified: see `keyleash doctor`"


def _refuse_node(_context: click.Context, _parameter: click.Parameter, urls: object) -> None:
    if urls:
        raise UsageError(
            "`--node` is gone: `load` changes no users, and agents that are not trusted connect to"
            " `keyleash gateway`",
            help="`keyleash doctor` prints the command that removes the users of agents",
        )


_load_options = all_of(
    click.option("--node", multiple=True, hidden=True, expose_value=False, callback=_refuse_node),
    allow_eviction_option,
    allow_unvalidated_restore_option,
    allow_widening_option,
    allow_removal_option,
    full_option,
    wait_option,
    yes_option,
    with_settings,
)
"""The options that `load` and `rollback` share."""


@click.command(epilog=example("keyleash load agents.yaml --yes"))
@click.argument("file", type=FILE)
@_load_options
def load(settings: Settings, /, file: str, **options: Any) -> int:
    """Activate a policy file atomically.

    Shows the server and the plan, as `keyleash plan` does, and asks for confirmation. Counters of
    limits, tokens and suspensions are preserved. Afterwards the activated records are read back and
    verified.

    With --yes it does not ask. The server must then be named by --url or KEYLEASH_URL, or run by
    `keyleash serve`. Changes that widen access need --allow-widening, unless no policy is active
    yet. The removal of identities needs --allow-removal. If FILE is `-`, standard input, --yes is
    required.

    Warns of rules without effect: commands that the server lacks, before-images of masked keys.
    Rejects a server that may evict keyleash's own keys when its memory is full, and one that does
    not validate payloads if FILE allows RESTORE; an option allows each.
    """
    policy = read_policy(file)
    return _load(settings, partial(settings.operator.plan, policy), **options)


@click.command(epilog=example("keyleash rollback --to 3f9ac2d81b07"))
@click.option("--to", metavar="DIGEST", help="The policy, by the first digits of its digest.")
@_load_options
def rollback(settings: Settings, /, to: str | None, **options: Any) -> int:
    """Activate an earlier policy again.

    Without --to this is the previously active policy, so a second rollback reverts the first.
    `keyleash policy history` lists the last 20 policies. A rollback is a load: it has a generation
    of its own, shows the plan, asks for the same consent, and preserves counters, tokens and
    suspensions.
    """
    return _load(settings, partial(settings.operator.plan_rollback, to), **options)


_COLOURS = {"+": "green", "-": "red", "~": "yellow"}
_SIGN = re.compile(r"^((?:    )?)([+~-])(?= )", re.MULTILINE)
_WIDENS = re.compile(r"   \[widens[^]\n]*\]$|^widens access: (?!none$).*", re.MULTILINE)


def print_plan(server: str, plan: LoadPlan, *, full: bool = False, err: bool = False) -> None:
    """Print a plan below its server; *full* as for `LoadPlan.describe`, *err* to standard error."""
    text = plan.describe(full=full)
    if not is_plain():
        text = _SIGN.sub(lambda sign: sign[1] + click.style(sign[2], fg=_COLOURS[sign[2]]), text)
        text = _WIDENS.sub(lambda mark: click.style(mark[0], bold=True), text)
    click.echo(f"server     {server}\n{text}", err=err)
