"""`keyleash load` and `keyleash rollback`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
from redis.exceptions import ConnectionError, RedisError, TimeoutError
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from keyleash.cli.failures import warn
from keyleash.cli.nodes import node_option, note_unlisted_replicas, other_nodes
from keyleash.cli.options import (
    FILE,
    allow_eviction_option,
    allow_removal_option,
    allow_unvalidated_restore_option,
    allow_widening_option,
    example,
    full_option,
    json_option,
    require_consent,
    transport_option,
    yes_option,
)
from keyleash.cli.render.plan import print_plan
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.target import require_target
from keyleash.cli.terminal import print_json, print_note, read_text
from keyleash.errors import OperationError
from keyleash.fence import read_records
from keyleash.operator.load.consent import (
    LoadPlan,
    apply_plan,
    check_consent,
    earlier_policy,
    plan_load,
)
from keyleash.store.records import read_active
from keyleash.store.wire import Transport
from keyleash.text import counted, short_digest

if TYPE_CHECKING:
    from keyleash.operator import LoadResult

F = TypeVar("F", bound=Callable[..., Any])

SOON_S = 1.0
"""Work that ends sooner shows no progress bar."""

Report = Callable[[int, int | None], None]
"""Receives the amount of finished work and the total; None if the total is not known."""


@contextmanager
def progress(label: str, *, is_wanted: bool) -> Iterator[Report]:
    """
    Context manager: yields a function that updates a progress bar.

    The bar is on standard error, and only if that is a terminal and the work takes a while.

    Args:
        label: The text beside the bar.
        is_wanted: False with `--json`.
    """
    if not is_wanted or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return

    class Late(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            if self.tasks and (self.tasks[0].elapsed or 0) > SOON_S:
                yield from super().get_renderables()

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Late(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def plan_document(
    settings: Settings, document: str, file: str, transport: Transport, **allowed: bool
) -> LoadPlan:
    """Plan a load with a progress bar; see `plan_load`."""
    with progress("compiling", is_wanted=not settings.json) as report:
        return plan_load(
            settings.store, document, file=file, transport=transport, report=report, **allowed
        )


def _load(
    settings: Settings,
    document: str,
    file: str,
    source: str,
    transport: Transport,
    *,
    nodes: Sequence[str],
    allow_eviction: bool,
    allow_unvalidated_restore: bool,
    allow_widening: bool,
    allow_removal: bool,
    full: bool,
    yes: bool,
) -> None:
    """
    Activate a policy after consent to its plan; *source* is its origin, shown in the plan.

    Raises:
        UsageError: *yes*, and the server is not named.
        OperationError (declined): The user declined.
    """
    target = require_target(settings, yes=yes)
    others = [node.client for node in other_nodes(settings, nodes)]
    plan = plan_document(
        settings,
        document,
        file,
        transport,
        allow_eviction=allow_eviction,
        allow_unvalidated_restore=allow_unvalidated_restore,
    )
    if not settings.json:
        warn(plan.prepared.warnings)
    if not plan.is_empty:
        print_plan(target, source, plan, full=full, err=True)
        if yes:
            check_consent(plan, allow_widening=allow_widening, allow_removal=allow_removal)
        if not require_consent(_question(plan), yes):
            raise OperationError("declined", "nothing was activated")
    try:
        with progress("loading", is_wanted=not settings.json) as report:
            # Without `--yes` the user has agreed to all of the plan.
            result = apply_plan(
                settings.store,
                plan,
                allow_widening=allow_widening or not yes,
                allow_removal=allow_removal or not (yes or plan.is_empty),
                others=others,
                report=report,
            )
    except (KeyboardInterrupt, ConnectionError, TimeoutError):
        print_note(_interrupted_load(settings, plan.digest, plan.preview.generation))
        raise
    _print_result(settings, plan, result, len(others))


def _question(plan: LoadPlan) -> str:
    effects = ["activate"]
    if plan.removed:
        effects.append(f"remove {counted(len(plan.removed), 'identity')}")
    if plan.preview.needs_permission:
        effects.append(f"widen access of {counted(len(plan.widened), 'identity')}")
    return f"{', and '.join(effects)}?"


def _interrupted_load(settings: Settings, digest: str, before: int) -> str:
    """Return the outcome of an interrupted load, as far as the server can be asked."""
    try:
        active = read_active(settings.store)
    except RedisError:
        return "the policy may be active: see `keyleash status`"
    if active is None or active.generation == before:
        return "nothing was activated"
    if active.digest != digest:
        return f"another policy is active as generation {active.generation}"
    return f"active as generation {active.generation}, but not verified: see `keyleash doctor`"


def _print_result(settings: Settings, plan: LoadPlan, result: LoadResult, nodes: int) -> None:
    if settings.json:
        transport, shown = plan.preview.transport, result.to_dict()
        warnings = shown.pop("warnings")
        print_json(
            {
                "server": settings.shown_url,
                **shown,
                "transport": transport,
                "verified": True,
                "plan": plan,
                "warnings": warnings,
            }
        )
        return
    if not result.changed:
        click.echo(f"already active as generation {result.generation}; nothing changed")
        return
    count = counted(len(result.identities), "identity")
    click.echo(f"activated generation {result.generation}: {count}")
    print_note("verified: records, states and scripts match")
    fenced = read_records(settings.store)
    without = [name for name in result.identities if name not in fenced]
    if fenced and without:
        print_note(f"note: without an ACL user: {', '.join(without)}; see `keyleash fence plan`")
    if fenced:
        note_unlisted_replicas(settings.client, nodes)


def _load_options(function: F) -> F:
    """Add the options that `load` and `rollback` share."""
    options = (
        allow_eviction_option,
        allow_unvalidated_restore_option,
        node_option,
        allow_widening_option,
        allow_removal_option,
        full_option,
        yes_option,
        json_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command(epilog=example("keyleash load agents.yaml --yes"))
@click.argument("file", type=FILE)
@transport_option
@_load_options
@pass_settings
def load(settings: Settings, /, file: str, transport: str, **options: Any) -> None:
    """Activate a policy file atomically.

    Shows the server and the plan, as `keyleash plan` does, and asks for confirmation. With --yes it
    does not ask; then the server must be named by --url or KEYLEASH_URL, or run by `keyleash
    serve`, changes that widen access need --allow-widening, unless no policy is active yet,
    and the removal of identities needs --allow-removal. Counters of limits, tokens and
    suspensions are preserved. Afterwards the activated records are read back and verified.
    Warns of rules without effect: commands that the server lacks, before-images of masked keys.
    Rejects a server that may evict keyleash's own keys when its memory is full, and one that does
    not validate payloads if FILE allows RESTORE; an option allows each. `-` reads standard
    input, and then needs --yes.

    ACL users of `keyleash fence` are updated as well, on each --node too, and those of removed
    identities are deleted.
    """
    name, text = read_text(file)
    _load(settings, text, name, name, Transport(transport), **options)


@click.command(epilog=example("keyleash rollback --to 3f9ac2d81b07"))
@click.option("--to", metavar="DIGEST", help="The policy, by the first digits of its digest.")
@_load_options
@pass_settings
def rollback(settings: Settings, /, to: str | None, **options: Any) -> None:
    """Activate an earlier policy again.

    Without --to this is the previously active policy, so a second rollback reverts the first.
    `keyleash policy history` lists the last 20 policies. A rollback is a load: it has a generation
    of its own, shows the plan, asks for the same consent, and preserves counters, tokens and
    suspensions.
    """
    active = read_active(settings.store)
    target = earlier_policy(settings.store, to)
    _load(
        settings,
        target.document,
        f"<policy {short_digest(target.digest)}>",
        f"of generation {target.generation}",
        # The transport depends on the server's operation and is no part of a policy.
        active.transport if active else Transport.EVALSHA,
        **options,
    )
