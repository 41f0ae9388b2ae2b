"""Prometheus metrics of a deployment.

Labels are identities, limits and codes, which a policy bounds, and nodes; never a key, a token or a
digest. docs/reference/metrics.md lists all metrics, and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import exceptions as redis_errors

from keyleash.addons.status.identities import IdentityStatus
from keyleash.addons.status.shards import ClusterStatus
from keyleash.addons.status.snapshot import Snapshot
from keyleash.errors import KeyleashError, OperationError


def up(is_up: bool) -> Metric:
    """Return the metric that tracks whether the server was read."""
    return GaugeMetricFamily(
        "keyleash_up", "1 if the server could be read for this scrape, else 0.", value=float(is_up)
    )


def families_of(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield all metrics of a server that was read, except `up`."""
    yield _plain(
        "keyleash_policy_generation",
        "Number of activations so far; 0 if no policy is active.",
        snapshot.active.generation if snapshot.active else 0,
    )
    if snapshot.active is None:
        return
    yield _plain(
        "keyleash_policy_activated_timestamp_seconds",
        "Activation time of the active policy.",
        snapshot.active.activated_ms / 1000,
    )
    yield from _identities(snapshot.identities)
    yield from _tokens(snapshot)
    yield from _limits(snapshot.identities)
    yield _denials(snapshot.identities)
    if snapshot.cluster is not None:
        yield from _cluster(snapshot, snapshot.cluster)


def _identities(identities: Iterable[IdentityStatus]) -> Iterator[Metric]:
    active = _by_identity(
        "keyleash_identity_active", "1 if the identity has its state; 0 if every call is denied."
    )
    suspended = _by_identity("keyleash_identity_suspended", "1 if the identity is suspended.")
    audited = _by_identity("keyleash_audit_entries", "Entries in the audit stream.")
    denied = _by_identity("keyleash_denial_entries", "Entries in the denial stream.")
    folded = _counter("keyleash_denials_folded", "Denials that share the entry of another denial.")
    replays = _counter(
        "keyleash_replays", "Calls that got the remembered reply of their idempotency id."
    )
    events = _counter("keyleash_events", "Recorded events.")
    for identity in identities:
        active.add_metric([identity.name], identity.active)
        suspended.add_metric([identity.name], identity.suspended)
        audited.add_metric([identity.name], identity.audit_length)
        denied.add_metric([identity.name], identity.denied_length)
        folded.add_metric([identity.name], identity.folded)
        replays.add_metric([identity.name], identity.replays)
        if identity.active:
            events.add_metric([identity.name], identity.events)
    yield from (active, suspended, audited, denied, folded, replays, events)


def _tokens(snapshot: Snapshot) -> Iterator[Metric]:
    live = _by_identity("keyleash_tokens_live", "Tokens that are neither expired nor revoked.")
    due = _by_identity("keyleash_tokens_due", "Live tokens that are due for rotation.")
    oldest = _by_identity("keyleash_token_oldest_age_seconds", "Age of the oldest live token.")
    for identity in snapshot.identities:
        live.add_metric([identity.name], identity.tokens.live)
        due.add_metric([identity.name], identity.tokens.due)
        if identity.tokens.oldest is not None:
            age_ms = max(0, snapshot.now_ms - identity.tokens.oldest.issued_ms)
            oldest.add_metric([identity.name], age_ms / 1000)
    yield from (live, due, oldest)


def _limits(identities: Iterable[IdentityStatus]) -> Iterator[Metric]:
    labels = ["identity", "limit"]
    used = GaugeMetricFamily(
        "keyleash_limit_used",
        "Usage in the current window; absent for limits per token or segment.",
        labels=labels,
    )
    most = GaugeMetricFamily(
        "keyleash_limit_max",
        "Maximum of keyleash_limit_used: the budget, the rate or the burst.",
        labels=labels,
    )
    resets = GaugeMetricFamily(
        "keyleash_limit_reset_timestamp_seconds",
        "End of the window of a budget; absent if the budget is unused.",
        labels=labels,
    )
    for identity in identities:
        for use in identity.limits:
            most.add_metric([identity.name, use.name], use.of)
            if use.used is not None:
                used.add_metric([identity.name, use.name], use.used)
            if use.resets_ms is not None:
                resets.add_metric([identity.name, use.name], use.resets_ms / 1000)
    yield from (used, most, resets)


def _cluster(snapshot: Snapshot, cluster: ClusterStatus) -> Iterator[Metric]:
    """Yield the sums over all shards: tags come and go, so they are no labels."""
    labels = ["identity", "limit"]
    shards = _by_identity("keyleash_shards", "Shards of a cluster with leases.")
    unread = _by_identity("keyleash_shards_unread", "Shards that could not be read.")
    granted, unspent, stranded = (
        GaugeMetricFamily(f"keyleash_leased_{name}", help, labels=labels)
        for name, help in (
            ("granted", "Units granted to shards: of a budget in the open window."),
            ("unspent", "Units that shards may still use."),
            ("stranded", "Units of budgets that did not reach their shard."),
        )
    )
    for identity in snapshot.identities:
        found = identity.shards or ()
        shards.add_metric([identity.name], len(found))
        unread.add_metric([identity.name], sum(bool(shard.reason) for shard in found))
        sums: dict[str, list[int]] = {}
        for item in (limit for shard in found for limit in shard.limits):
            sum_of = sums.setdefault(item.name, [0, 0, 0])
            for place, units in enumerate((item.granted, item.unspent, item.stranded)):
                sum_of[place] += units or 0
        for name, numbers in sums.items():
            for family, number in zip((granted, unspent, stranded), numbers, strict=True):
                family.add_metric([identity.name, name], number)
    yield from (shards, unread, granted, unspent, stranded)
    yield _plain("keyleash_cluster_nodes", "Nodes of the cluster.", cluster.nodes)
    nodes = GaugeMetricFamily(
        "keyleash_node_up", "1 if the node of the cluster answers, else 0.", labels=["node"]
    )
    for node, reason in cluster.reasons.items():
        nodes.add_metric([node], not reason)
    yield nodes
    yield _plain(
        "keyleash_home_operations",
        "Commands per second of the node of the home, of all clients.",
        cluster.home_operations,
    )


def _denials(identities: Iterable[IdentityStatus]) -> Metric:
    denials = GaugeMetricFamily(
        "keyleash_recent_denials",
        "Calls denied in the last five minutes.",
        labels=["identity", "code"],
    )
    for identity in identities:
        for code, of_code in sorted(identity.denials.items()):
            denials.add_metric([identity.name, code], of_code.count)
    return denials


def _plain(name: str, help: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help, value=float(value))


def _by_identity(name: str, help: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help, labels=["identity"])


def _counter(name: str, help: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, help, labels=["identity"])


class SnapshotCollector(Collector):
    """Collects the metrics of a server at each scrape.

    Args:
        read: Reads a snapshot.
        report: Called after each scrape with the error that stopped it, or None; in any thread.

    Attributes:
        failure: The error of the last scrape, or None.
    """

    def __init__(
        self, read: Callable[[], Snapshot], report: Callable[[Exception | None], None] | None = None
    ) -> None:
        self.failure: Exception | None = None
        self._read = read
        self._report = report or (lambda _error: None)

    def describe(self) -> list[Metric]:
        """Return nothing, so that registration needs no server."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, or only `up` if the server cannot be read."""
        try:
            found = list(families_of(self._read()))
        except (redis_errors.RedisError, OSError, KeyleashError, LookupError, ValueError) as error:
            self.failure = error
            self._report(error)
            yield up(False)
            return
        self.failure = None
        self._report(None)
        yield up(True)
        yield from found

    def text(self) -> str:
        """Read the server and return the metrics in the text format of Prometheus."""
        return generate_latest(self._registry()).decode()

    @contextmanager
    def serve(self, port: int = 0, host: str = "127.0.0.1") -> Iterator[str]:
        """Context manager: serve the metrics over HTTP from a thread; yields the URL.

        Args:
            port: The port; 0 picks a free one.
            host: The address to listen on.

        Raises:
            OperationError (port-in-use): The port is in use, or may not be used.
        """
        try:
            server, _ = start_http_server(port, addr=host, registry=self._registry())
        except OSError as error:
            raise OperationError(
                "port-in-use",
                f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}",
                help="choose another port: `--port 0` picks a free one",
            ) from None
        try:
            yield f"http://{host}:{server.server_port}/metrics"
        finally:
            server.shutdown()
            server.server_close()

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(self)
        return registry
