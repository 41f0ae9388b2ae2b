"""`keyleash load` and `keyleash rollback`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from redis.exceptions import ConnectionError, RedisError, TimeoutError
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from keyleash.cli.failures import problem_as_json, warn
from keyleash.cli.fence_state import node_option, other_clients, say_unlisted_replicas
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
from keyleash.cli.terminal import print_json, print_note, read_text
from keyleash.errors import (
    OperationError,
    RemovalError,
    no_policy,
)
from keyleash.fence import read_records
from keyleash.operator import (
    activate_policy,
    prepare_policy,
    preview_load,
    summary_of_plan,
    verify_activation,
)
from keyleash.store.records import ActivePolicy, read_active, read_history
from keyleash.store.wire import Transport
from keyleash.text import clock_time, counted, printable, short_digest

if TYPE_CHECKING:
    from keyleash.operator import LoadResult, PreparedPolicy, Preview
    from keyleash.store.records import Client


SOON_S = 1.0
"""What ends sooner shows no bar."""

Report = Callable[[int, int | None], None]
"""Told how much is done, and of how much; None if that is not known."""


@contextmanager
def progress(what: str, *, is_wanted: bool) -> Iterator[Report]:
    """
    Give what is to be told how far some work is.

    It draws a bar on standard error, if that is a terminal and the work is not done soon.

    Args:
        what: Is done, in a word or two.
        is_wanted: False with `--json`.
    """
    if not is_wanted or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return

    class Late(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            if self.tasks and (self.tasks[0].elapsed or 0) > SOON_S:
                yield from super().get_renderables()

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Late(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def report(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield report


def activate(
    settings: Settings,
    prepared: PreparedPolicy,
    source: str,
    *,
    transport: Transport,
    others: Sequence[Client] = (),
    yes: bool,
    allow_widening: bool,
    allow_removal: bool,
    full: bool,
) -> None:
    """
    Activate a prepared policy, after consent to what it changes.

    Args:
        settings: Of this run.
        prepared: The policy.
        source: Where it is from, for people.
        transport: How its guards are to be called.
        others: Further servers whose ACL users are kept in step.
        yes: Whether nobody is asked.
        allow_widening: Whether it may widen access without anybody being asked.
        allow_removal: Whether it may remove identities without anybody being asked.
        full: Whether the plan shows every change of every identity.

    Raises:
        OperationError (declined): a person said no.
        RemovalError: it removes identities, nobody was to be asked, and that was not allowed.
        OperationError (widens): it widens access, nobody was to be asked, and that was not allowed.
        OperationError (activation-conflict): another policy was activated since the plan was made.
        OperationError (not-verified): the server does not have what was activated.
    """
    client, keyspace = settings.client, settings.keyspace
    if not settings.json:
        warn(prepared.warnings)
    preview = preview_load(client, prepared, keyspace, transport)
    if not preview.is_empty:
        print_plan(settings.shown_url, source, prepared, preview, full=full, err=True)
        if yes and preview.removed and not allow_removal:
            widens = preview.needs_permission and not allow_widening
            raise RemovalError(prepared.file, preview.removed, widens)
        _require_consent(preview, yes=yes, allow_widening=allow_widening)
    try:
        with progress("loading", is_wanted=not settings.json) as report:
            result = activate_policy(
                client,
                prepared,
                actor=settings.actor,
                keyspace=keyspace,
                transport=transport,
                others=others,
                expected=preview.generation,
                plan=summary_of_plan(preview),
                report=report,
                # Without `--yes` a person has agreed to all of the plan.
                allow_removal=allow_removal or not (yes or preview.is_empty),
            )
        verify_activation(client, prepared, keyspace, transport, result.generation)
    except (KeyboardInterrupt, ConnectionError, TimeoutError):
        print_note(_whether_active(settings, prepared.digest, preview.generation))
        raise
    _tell(settings, prepared, preview, result, len(others))


def _require_consent(preview: Preview, *, yes: bool, allow_widening: bool) -> None:
    widened = [identity.name for identity in preview.diff.identities if identity.widens]
    effects = ["activate"]
    if preview.removed:
        effects.append(f"remove {counted(len(preview.removed), 'identity')}")
    if preview.needs_permission:
        if yes and not allow_widening:
            names = ", ".join(f"`{name}`" for name in widened[:5])
            more = f" and {len(widened) - 5} more" if widened[5:] else ""
            raise OperationError(
                "widens",
                f"this widens what {names}{more} may do, and nothing was activated",
                help="look at what is marked `widens`; then add `--allow-widening`, or leave out"
                " `--yes` to be asked",
            )
        effects.append(f"widen access of {counted(len(widened), 'identity')}")
    if not require_consent(f"{', and '.join(effects)}?", yes):
        raise OperationError("declined", "nothing was activated")


def _whether_active(settings: Settings, digest: str, before: int) -> str:
    """What a load that was cut short may have done, as far as the server can still be asked."""
    try:
        active = read_active(settings.client, settings.keyspace)
    except RedisError:
        return "whether it was activated is not known: look at `keyleash status`"
    if active is None or active.generation == before:
        return "nothing was activated"
    if active.digest != digest:
        return f"another policy is active as generation {active.generation}"
    said = f"it is active as generation {active.generation}, and was not read back"
    return f"{said}: look at `keyleash doctor`"


def _tell(
    settings: Settings,
    prepared: PreparedPolicy,
    preview: Preview,
    result: LoadResult,
    named: int,
) -> None:
    if settings.json:
        print_json(
            {
                "server": settings.shown_url,
                "changed": result.changed,
                "generation": result.generation,
                "digest": result.digest,
                "transport": preview.transport,
                "identities": list(result.identities),
                "removed": list(result.removed),
                "verified": True,
                "plan": plan_as_json(prepared, preview),
                "warnings": [problem_as_json(warning) for warning in result.warnings],
            }
        )
    elif not result.changed:
        click.echo(f"already active as generation {result.generation}; nothing changed")
    else:
        count = counted(len(result.identities), "identity")
        click.echo(f"activated generation {result.generation}: {count}")
        print_note("verified: records, states and scripts match")
        _say_of_users(settings, result.identities, named)


def _say_of_users(settings: Settings, identities: Sequence[str], named: int) -> None:
    """Where some identities have ACL users, say which have none, and of replicas not named."""
    fenced = read_records(settings.client, settings.keyspace)
    without = [name for name in identities if name not in fenced]
    if fenced and without:
        print_note(f"note: without an ACL user: {', '.join(without)}; see `keyleash fence plan`")
    if fenced:
        say_unlisted_replicas(settings.client, named)


@click.command(epilog=example("keyleash load examples/agents.yaml --yes"))
@click.argument("file", type=FILE)
@allow_eviction_option
@allow_unvalidated_restore_option
@transport_option
@node_option
@allow_widening_option
@allow_removal_option
@full_option
@yes_option
@json_option
@pass_settings
def load(
    settings: Settings,
    file: str,
    allow_eviction: bool,
    allow_unvalidated_restore: bool,
    transport: str,
    nodes: Sequence[str],
    allow_widening: bool,
    allow_removal: bool,
    full: bool,
    yes: bool,
) -> None:
    """Activate a policy file atomically.

    Shows the plan, as `keyleash plan` does, and asks for confirmation. With --yes it does not
    ask; then changes that widen access need --allow-widening, unless no policy is active yet,
    and the removal of identities needs --allow-removal. Counters of limits, tokens and
    suspensions are preserved. Afterwards the activated records are read back and verified.
    Warns of rules without effect: commands that the server lacks, before-images of masked keys.
    Rejects a server that may evict keyleash's own keys when its memory is full, and one that does
    not validate payloads if FILE allows RESTORE; an option allows each. `-` reads standard
    input, and then needs --yes.

    ACL users that `keyleash fence` made are kept in step, on each --node as well, and those of
    identities that leave the policy are deleted.
    """
    name, text = read_text(file)
    others = other_clients(settings, nodes)
    with progress("compiling", is_wanted=not settings.json) as report:
        prepared = prepare_policy(
            settings.client,
            text,
            file=name,
            keyspace=settings.keyspace,
            allow_eviction=allow_eviction,
            allow_unvalidated_restore=allow_unvalidated_restore,
            report=report,
        )
    activate(
        settings,
        prepared,
        name,
        transport=Transport(transport),
        others=others,
        yes=yes,
        allow_widening=allow_widening,
        allow_removal=allow_removal,
        full=full,
    )


MIN_DIGITS = 6
"""So much of a digest must be given."""


def find_kept(kept: Sequence[ActivePolicy], digest: str) -> ActivePolicy:
    """
    The kept policy whose digest begins with *digest*.

    Raises:
        OperationError (unknown-policy): there is none, or several; the help lists them.
        OperationError (no-policy): none is kept at all.
    """
    if not kept:
        raise no_policy("no policy is stored")
    wanted = digest.lower()
    found = [item for item in kept if item.digest.startswith(wanted)]
    if len(wanted) < MIN_DIGITS or len(found) != 1:
        shown = printable(digest[:64])
        message = (
            f"more of the digest `{shown}` is needed: at least {MIN_DIGITS} digits"
            if len(wanted) < MIN_DIGITS
            else f"no policy with the digest `{shown}` is kept"
            if not found
            else f"{len(found)} policies have a digest that begins with `{shown}`"
        )
        raise OperationError(
            "unknown-policy", message, help=f"there are {'; '.join(map(_named, kept))}"
        )
    return found[0]


def _named(active_policy: ActivePolicy) -> str:
    when = clock_time(active_policy.activated_ms)
    return f"`{short_digest(active_policy.digest)}` (generation {active_policy.generation}, {when})"


@click.command(epilog=example("keyleash rollback --to 3f9ac2d81b07"))
@click.option("--to", metavar="DIGEST", help="Which policy, by the first digits of its digest.")
@allow_eviction_option
@allow_unvalidated_restore_option
@node_option
@allow_widening_option
@allow_removal_option
@full_option
@yes_option
@json_option
@pass_settings
def rollback(
    settings: Settings,
    to: str | None,
    allow_eviction: bool,
    allow_unvalidated_restore: bool,
    nodes: Sequence[str],
    allow_widening: bool,
    allow_removal: bool,
    full: bool,
    yes: bool,
) -> None:
    """Activate an earlier policy again.

    Without --to it is the one that was active before this one, so a second rollback takes the
    first one back. `keyleash policy history` lists those that are kept, the last 20. It is a
    load like any other: it gets a generation of its own, shows the plan and asks, needs the same
    consent, and counters, tokens and suspensions stay as they are.
    """
    client, keyspace = settings.client, settings.keyspace
    active = read_active(client, keyspace)
    kept = read_history(client, keyspace)
    target = find_kept(kept, to) if to is not None else _previous(active, kept)
    source = f"<policy {short_digest(target.digest)}>"
    with progress("compiling", is_wanted=not settings.json) as report:
        prepared = prepare_policy(
            client,
            target.document,
            file=source,
            keyspace=keyspace,
            allow_eviction=allow_eviction,
            allow_unvalidated_restore=allow_unvalidated_restore,
            report=report,
        )
    activate(
        settings,
        prepared,
        f"of generation {target.generation}",
        # How guards are called is how the server is run, and no part of a policy.
        transport=active.transport if active else Transport.EVALSHA,
        others=other_clients(settings, nodes),
        yes=yes,
        allow_widening=allow_widening,
        allow_removal=allow_removal,
        full=full,
    )


def _previous(active: ActivePolicy | None, kept: Sequence[ActivePolicy]) -> ActivePolicy:
    if active is None:
        raise no_policy()
    found = next((item for item in kept if item.digest == active.before), None)
    if found is None:
        raise OperationError(
            "no-policy",
            "the policy that was active before is not kept here",
            help="see `keyleash policy history`, and name one with `--to`",
        )
    return found
