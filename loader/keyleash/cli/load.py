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

from keyleash.cli.failures import problem_as_json, warn
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
from keyleash.cli.render.plan import plan_as_json, print_plan
from keyleash.cli.settings import Settings, pass_settings
from keyleash.cli.target import require_target
from keyleash.cli.terminal import print_json, print_note, read_text
from keyleash.errors import OperationError, RemovalError, no_policy
from keyleash.fence import read_records
from keyleash.operator import (
    activate_policy,
    prepare_policy,
    preview_load,
    summary_of_plan,
    verify_activation,
)
from keyleash.policy.problems import listing
from keyleash.store.identities import require_active
from keyleash.store.records import ActivePolicy, read_active, read_history
from keyleash.store.wire import Transport
from keyleash.text import clock_time, counted, printable, short_digest

if TYPE_CHECKING:
    from keyleash.operator import LoadResult, PreparedPolicy, Preview

F = TypeVar("F", bound=Callable[..., Any])

SOON_S = 1.0
"""Work that ends sooner shows no progress bar."""

Report = Callable[[int, int | None], None]
"""Receives the amount of finished work and the total; None if the total is not known."""

MIN_DIGITS = 6
"""Minimum length of the digest prefix that selects a stored policy."""


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


def prepare(
    settings: Settings,
    document: str,
    file: str,
    *,
    allow_eviction: bool,
    allow_unvalidated_restore: bool,
) -> PreparedPolicy:
    """Compile a policy for the server, with a progress bar; see `prepare_policy`."""
    with progress("compiling", is_wanted=not settings.json) as report:
        return prepare_policy(
            settings.store,
            document,
            file=file,
            allow_eviction=allow_eviction,
            allow_unvalidated_restore=allow_unvalidated_restore,
            report=report,
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
        RemovalError: *yes*, and removing identities was not allowed.
        OperationError (widens): *yes*, and widening access was not allowed.
        OperationError (activation-conflict): Another policy was activated in the meantime.
        OperationError (not-verified): The activated records differ from what was written.
    """
    target = require_target(settings, yes=yes)
    store = settings.store
    others = [node.client for node in other_nodes(settings, nodes)]
    prepared = prepare(
        settings,
        document,
        file,
        allow_eviction=allow_eviction,
        allow_unvalidated_restore=allow_unvalidated_restore,
    )
    if not settings.json:
        warn(prepared.warnings)
    preview = preview_load(store, prepared, transport)
    if not preview.is_empty:
        print_plan(target, source, prepared, preview, full=full, err=True)
        if yes and preview.removed and not allow_removal:
            widens = preview.needs_permission and not allow_widening
            raise RemovalError(file, preview.removed, widens)
        _require_consent(preview, yes=yes, allow_widening=allow_widening)
    try:
        with progress("loading", is_wanted=not settings.json) as report:
            result = activate_policy(
                store.by(settings.actor),
                prepared,
                transport=transport,
                others=others,
                expected=preview.generation,
                plan=summary_of_plan(preview),
                report=report,
                # Without `--yes` a person has agreed to all of the plan.
                allow_removal=allow_removal or not (yes or preview.is_empty),
            )
        verify_activation(store, prepared, transport, result.generation)
    except (KeyboardInterrupt, ConnectionError, TimeoutError):
        print_note(_interrupted_load(settings, prepared.digest, preview.generation))
        raise
    _print_result(settings, prepared, preview, result, len(others))


def _require_consent(preview: Preview, *, yes: bool, allow_widening: bool) -> None:
    widened = [identity.name for identity in preview.diff.identities if identity.widens]
    effects = ["activate"]
    if preview.removed:
        effects.append(f"remove {counted(len(preview.removed), 'identity')}")
    if preview.needs_permission:
        if yes and not allow_widening:
            raise OperationError(
                "widens",
                f"this widens what {listing(widened, 5)} may do, and nothing was activated",
                help="look at what is marked `widens`; then add `--allow-widening`, or leave out"
                " `--yes` to be asked",
            )
        effects.append(f"widen access of {counted(len(widened), 'identity')}")
    if not require_consent(f"{', and '.join(effects)}?", yes):
        raise OperationError("declined", "nothing was activated")


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


def _print_result(
    settings: Settings, prepared: PreparedPolicy, preview: Preview, result: LoadResult, nodes: int
) -> None:
    if settings.json:
        print_json(
            {
                "server": settings.shown_url,
                "changed": result.changed,
                "generation": result.generation,
                "digest": result.digest,
                "transport": preview.transport,
                "identities": result.identities,
                "removed": result.removed,
                "verified": True,
                "plan": plan_as_json(prepared, preview),
                "warnings": [problem_as_json(warning) for warning in result.warnings],
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
    stored = read_history(settings.store)
    target = find_stored(stored, to) if to is not None else _previous(settings, stored)
    _load(
        settings,
        target.document,
        f"<policy {short_digest(target.digest)}>",
        f"of generation {target.generation}",
        # The transport depends on the server's operation and is no part of a policy.
        active.transport if active else Transport.EVALSHA,
        **options,
    )


def find_stored(stored: Sequence[ActivePolicy], digest: str) -> ActivePolicy:
    """
    Return the stored policy whose digest begins with *digest*.

    Raises:
        OperationError (unknown-policy): There is none, or several; the help lists them.
        OperationError (no-policy): No policy is stored.
    """
    if not stored:
        raise no_policy("no policy is stored")
    found = [item for item in stored if item.digest.startswith(digest.lower())]
    if len(digest) >= MIN_DIGITS and len(found) == 1:
        return found[0]
    shown = printable(digest[:64])
    message = f"{len(found)} policies have a digest that begins with `{shown}`"
    if len(digest) < MIN_DIGITS:
        message = f"the digest `{shown}` is too short: give at least {MIN_DIGITS} digits"
    elif not found:
        message = f"no stored policy has the digest `{shown}`"
    names = (
        f"`{short_digest(item.digest)}` (generation {item.generation},"
        f" {clock_time(item.activated_ms)})"
        for item in stored
    )
    raise OperationError("unknown-policy", message, help=f"stored: {'; '.join(names)}")


def _previous(settings: Settings, stored: Sequence[ActivePolicy]) -> ActivePolicy:
    active = require_active(settings.store)
    found = next((item for item in stored if item.digest == active.before), None)
    if found is None:
        raise OperationError(
            "no-policy",
            "the previous policy is not stored",
            help="see `keyleash policy history`, and name one with `--to`",
        )
    return found
