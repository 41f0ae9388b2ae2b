"""The tests of this directory that do not run on clusters, each with the difference behind it.

The differences are documented in docs/how-to/cluster.md and docs/explanation/clusters.md.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "is about clusters already, or about the cost of one server": (
        "test_shards",
        "test_bound_shards",
        "test_shard_tokens",
        "test_sealed_shards",
        "test_footprint",
        "test_under_load",
    ),
    "clusters do not remember calls with an idempotency id": ("test_idempotency",),
    "agents do not renew their tokens": ("test_renewal",),
    "starts a server of its own": (
        "test_clock_steps::test_clock_a_day_*",
        "test_clock_steps::test_calls_during_a_step_*",
        "test_restore::test_crafted_payload_crashes_*",
    ),
    "a node of a cluster cannot be made a replica by REPLICAOF": (
        "test_distress::*[[]*read-only-replica*",
        "test_distress::*[[]*primary-down*",
        "test_distress::test_server_that_is_loading_*",
    ),
    "a cluster has only database 0": (
        "test_functions::test_load_in_another_database_*",
        "test_values::test_write_is_denied_if_and_only_if_it_would_break_a_rule",
    ),
    "bound tokens are for one server": ("test_bound_tokens",),
    "of a rate a part is at hand, with a burst about half of it": (
        "test_batch::test_each_command_of_a_batch_counts[[]*burst*",
        "test_limits::test_limit_on_writes_counts_writes_alone[[]*gcra]",
        "test_limits::test_limit_per_token_counts_each_token_apart[[]*gcra]",
        "test_limits::test_refused_call_consumes_nothing",
        "test_limits::test_retry_after_is_positive_and_not_early",
        "test_activation::test_changed_rate_keeps_what_it_counted",
    ),
    "the home names no item of a batch": (
        "test_batch::test_refusal_in_a_batch_of_all_refuses_the_whole[[]command2*",
        "test_runs::test_limit_ends_within_a_run",
    ),
    "bytes are counted for `budget: {bytes_written: …}` only, and not with scripts": (
        "test_byte_limits::test_bytes_read_are_counted_behind_the_reply[[]*1kb*",
        "test_byte_limits::test_rate_of_bytes_written_allows_a_burst",
        "test_byte_limits::test_script_counts_the_bytes_of_its_commands",
    ),
    "the keys of one call are in one slot, so they have one segment": (
        "test_batch::test_segments_are_counted_apart_within_a_batch",
        "test_limits::test_call_over_several_segments_counts_once_for_each_or_for_none",
        "test_verdicts::test_claimed_keys_that_are_not_the_commands_are_refused[[]an-empty-one-more*",
    ),
    "each node has its own circuit breaker, which a freeze at the home does not see": (
        "test_breaker::test_freeze_outlasts_what_an_identity_did_to_itself",
    ),
}
"""By reason the patterns of `file::test[parameters]`; one without brackets stands for all."""


def exception_of(file: str, name: str) -> str | None:
    """Return why a test does not run on clusters; None if it does."""
    names = (f"{file}::{name}", f"{file}::{name.partition('[')[0]}", file)
    for reason, patterns in EXCEPTIONS.items():
        if any(fnmatchcase(item, pattern) for pattern in patterns for item in names):
            return reason
    return None
