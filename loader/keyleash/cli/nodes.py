"""Further servers of a deployment, and the nodes of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from keyleash.cli.options import refuse_typed_password
from keyleash.cli.settings import Settings
from keyleash.cli.terminal import print_note
from keyleash.errors.operations import FAILED
from keyleash.policy.problems import SHOWN_IDENTITIES, some
from keyleash.results import Change
from keyleash.text import clock_time, counted, printable

F = TypeVar("F", bound=Callable[..., Any])


def urls_option(option: str, variable: str, help: str) -> Callable[[F], F]:
    """Add a repeatable option of server URLs; those with passwords come from *variable*."""
    return click.option(
        option,
        f"{option.removeprefix('--')}s",
        metavar="URL",
        multiple=True,
        envvar=variable,
        callback=_without_passwords,
        help=f"{help}  [env var: {variable}, separated by blanks]",
    )


def _without_passwords(
    _context: click.Context, parameter: click.Parameter, urls: tuple[str, ...]
) -> tuple[str, ...]:
    refuse_typed_password(str(parameter.name), urls, str(parameter.envvar))
    return urls


sentinel_option = urls_option(
    "--sentinel", "KEYLEASH_SENTINELS", "A Sentinel that knows the servers; repeatable."
)
service_option = click.option(
    "--service", metavar="NAME", default="mymaster", help="Name of the primary in Sentinel."
)


class MissingNodes:
    """The nodes of a cluster that did not answer, and whose events are not shown."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def note(self, node: str, reason: str) -> None:
        """Print a warning about a node, once."""
        if node not in self._names:
            self._names.add(node)
            print_note(f"warning: without the events of node {node}: {printable(reason)}")

    @property
    def exit_code(self) -> int:
        """The exit code: `FAILED` if there is one."""
        return FAILED if self._names else 0


wait_option = click.option(
    "--wait",
    is_flag=True,
    help="On a cluster, wait until the change is effective at nodes that are out of reach.",
)


def show_nodes(settings: Settings, change: Change, *, wait: bool | None, again: str = "") -> int:
    """Print when a change is effective at each node of a cluster, and wait for it if requested.

    *wait* is the `--wait` of the command, None if it has none; *again* is what to know if running
    it again does more than to complete it. The exit code is `FAILED` if a node was not reached,
    unless *wait*, or if one has replicas and none of them is known to have the change.
    """
    if not settings.json:
        for node in change.nodes or ():
            print_note(f"node {node.node}: {node}")
    code = FAILED if change.not_replicated else 0
    if code and not settings.json:
        names = some([item.node for item in change.not_replicated], SHOWN_IDENTITIES)
        print_note(f"error: no replica of {names} is known to have it: a failover may undo it")
        print_note(f"help: {again or 'run it again when a replica follows its primary'}")
    if not change.not_reached:
        return code
    latest_ms = (change.latest_us or 0) // 1000
    if wait:
        left_s = latest_ms / 1000 - settings.operator.now().timestamp()
        if left_s > 0:
            print_note(f"waiting until {clock_time(latest_ms)}")
            time.sleep(left_s)
        return code
    if not settings.json:
        count = counted(len(change.not_reached), "node")
        print_note(f"error: {count} not reached")
        waiting = "" if wait is None else "; `--wait` waits until it is effective"
        print_note(f"help: {again or 'run it again when all nodes answer'}{waiting}")
    return FAILED
