"""The tests of this directory that do not run on clusters, each with the difference behind it.

The differences are documented in docs/how-to/cluster.md and docs/explanation/clusters.md.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from support.clustered import LEASE

EXCEPTIONS: dict[str, tuple[str, ...]] = {
    "is about clusters already, or about the cost of one server": (
        "test_shards",
        "test_bound_shards",
        "test_shard_tokens",
        "test_footprint",
        "test_under_load",
    ),
    "its policy has features that clusters refuse": (
        "test_delegation::test_guard_with_every_feature_*",
    ),
    "the home makes child tokens, as tests/cluster checks": (
        "test_delegation::test_raw_call_*",
        "test_delegation::test_id_of_another_child_*",
        "test_delegation::test_async_client_*",
    ),
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
    "of a rate a part is at hand, with a burst about half of it": (
        "test_batch::test_each_command_of_a_batch_counts[[]*burst*",
        "test_limits::test_limit_on_writes_counts_writes_alone[[]*gcra]",
        "test_limits::test_limit_per_token_counts_each_token_apart[[]*gcra]",
        "test_limits::test_refused_call_consumes_nothing",
        "test_limits::test_retry_after_is_positive_and_not_early",
        "test_activation::test_changed_rate_keeps_what_it_counted",
    ),
    "the home names no item of a batch": (
        "test_batch::test_refusal_in_a_batch_of_all_refuses_the_whole[[]*command2*",
        "test_runs::test_limit_ends_within_a_run",
    ),
    "bytes are counted for `budget: {bytes_written: …}` only, and not with scripts": (
        "test_byte_limits::test_bytes_read_are_counted_behind_the_reply[[]*1kb*",
        "test_byte_limits::test_rate_of_bytes_written_allows_a_burst",
        "test_byte_limits::test_script_counts_the_bytes_of_its_commands",
        "test_byte_caps::test_cap_of_bytes_read_*",
        "test_byte_caps::test_batch_charges_each_reply_*",
        "test_byte_caps::test_bytes_of_a_child_*",
        "test_byte_caps::test_explanation_*",
        "test_byte_caps::test_script_counts_*",
        "test_byte_caps::test_corrupt_cap_*[[]*bytes_read]",
    ),
    "the keys of one call are in one slot, so they have one segment": (
        "test_batch::test_segments_are_counted_apart_within_a_batch",
        "test_limits::test_call_over_several_segments_counts_once_for_each_or_for_none",
        "test_verdicts::test_claimed_keys_that_are_not_the_commands_are_refused[[]*an-empty-one-more*",
    ),
    "a script lists the keys of its node": (
        "test_scripts::test_keys_in_a_script_lists_what_it_lists_outside",
    ),
    "each node has its own circuit breaker, which a freeze at the home does not see": (
        "test_breaker::test_freeze_outlasts_what_an_identity_did_to_itself",
    ),
    "the home and each shard have their own streams of denials": (
        "test_denials::test_numbers_of_repeats_are_written_down_when_their_minute_is_over",
        "test_denials::test_token_makes_a_bounded_number_of_entries_a_minute",
    ),
    "a shard acts on its lease, and looks at no record of the home meanwhile": (
        "test_activation::test_lost_state_stops_the_identity_rather_than_resetting_it",
        "test_batch::test_batch_without_a_token_is_refused",
        "test_hostile_records::test_corrupt_counter_is_named_by_the_denial[[]*ring*-token]",
        "test_hostile_records::test_token_record_of_hostile_bytes_is_denied",
        "test_verdicts::test_refusals_follow_the_fixed_order",
    ),
    "a lease is a use of its token, also if the call is then denied": (
        "test_rotation::test_last_use_is_known_to_a_minute_and_never_is_never",
        "test_tokens::test_refused_call_does_not_keep_an_idle_token_alive",
    ),
    "a shard notes that it asks for a lease, so on a full server its error comes first": (
        "test_distress::test_full_memory_does_not_keep_an_agent_from_being_stopped",
    ),
    "a load of the same policy ends the leases that were granted before": (
        "test_activation::test_load_of_the_same_policy_changes_nothing_and_says_so",
    ),
    "the event of a reset counts the counters of the home alone": (
        "test_clock_steps::test_reset_of_all_limits_is_on_record_as_an_operator_action",
    ),
    "units that a shard has not used are dropped when limits change": (
        "test_staging::test_every_call_is_counted_once_while_loads_follow_each_other",
    ),
}
"""By reason the patterns of `file::test[parameters]`; one without brackets stands for all."""

OF_LARGE_LEASES: dict[str, tuple[str, ...]] = {
    "units are charged when they are granted, and no other shard has them": (
        "test_clock_steps::test_reset_during_concurrent_calls_is_exact[[]*-token]",
        "test_clock_steps::test_reset_of_one_limit_leaves_the_others",
        "test_delegation::test_denied_call_charges_no_cap_of_the_chain",
        "test_hostile_records::test_corrupt_counter_is_named_by_the_denial[[]*gcra*-token]",
        "test_staging::test_calls_between_staging_and_activation_are_counted",
        "test_staging::test_load_that_stops_after_staging_changes_nothing",
        "test_staging::test_load_whose_staged_keys_are_gone_activates_nothing",
        "test_staging::test_of_two_loads_with_staged_states_one_wins_wholly",
    )
}
"""The same, of tests that run with leases of one unit alone."""


def exception_of(file: str, name: str) -> str | None:
    """Return why a test does not run on clusters; None if it does."""
    names = (f"{file}::{name}", f"{file}::{name.partition('[')[0]}", file)
    exceptions = EXCEPTIONS if LEASE == 1 else EXCEPTIONS | OF_LARGE_LEASES
    for reason, patterns in exceptions.items():
        if any(fnmatchcase(item, pattern) for pattern in patterns for item in names):
            return reason
    return None
