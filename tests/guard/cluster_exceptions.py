"""The tests of this directory that do not run on clusters, each with the difference behind it.

The differences are documented in docs/how-to/cluster.md and docs/explanation/clusters.md; the last
reason is of the tests, not of clusters.
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
    "of a rate a part is at hand, with a burst about half of it, and the home names no item": (
        "test_batch::test_refusal_in_a_batch_of_all_refuses_the_whole[[]command2*",
        "test_limits::test_limit_on_writes_counts_writes_alone[[]*gcra]",
        "test_limits::test_limit_per_token_counts_each_token_apart[[]*gcra]",
        "test_limits::test_refused_call_consumes_nothing",
        "test_limits::test_retry_after_is_positive_and_not_early",
        "test_runs::test_limit_ends_within_a_run",
    ),
    "agents do not renew their tokens": ("test_renewal",),
    "`keyleash.pool` is for one server": (
        "test_recording::test_single_command_with_images_runs_in_batches_and_scripts",
    ),
    "bytes are counted for `budget: {bytes_written: …}` only, and not with scripts": (
        "test_byte_limits::test_bytes_read_are_counted_behind_the_reply[[]*1kb*",
        "test_byte_limits::test_rate_of_bytes_written_allows_a_burst",
        "test_byte_limits::test_script_counts_the_bytes_of_its_commands",
    ),
    "a limit per segment needs the segment as the hash tag of its keys": (
        "test_batch::test_segments_are_counted_apart_within_a_batch",
        "test_byte_limits::test_budget_of_bytes_written_allows_that_many_bytes[[]*{id}]",
        "test_clock_steps::test_reset_*",
        "test_distress::test_agent_goes_on_*",
        "test_distress::test_call_in_which_memory_becomes_full_*",
        "test_distress::test_reads_that_count_*",
        "test_distress::test_refusal_of_the_guard_*",
        "test_distress::test_server_that_is_loading_*",
        "test_distress::test_what_the_server_refuses_*",
        "test_hostile_records::test_corrupt_counter_is_named_by_the_denial",
        "test_hostile_records::test_counter_of_hostile_bytes_is_denied_at_the_cost_of_a_call",
        "test_limits::test_call_over_several_segments_counts_once_for_each_or_for_none",
        "test_limits::test_limit_per_captured_segment_counts_each_value_apart",
    ),
    "the keys of one call are in one slot": (
        "test_values::test_random_writes_leave_no_value_that_a_rule_forbids",
        "test_verdicts::test_claimed_keys_that_are_not_the_commands_are_refused",
        "test_verdicts::test_copy_*",
        "test_verdicts::test_own_errors_of_a_command_come_back_as_they_are",
        "test_work::test_call_that_is_too_much_work_is_denied_and_a_small_one_passes",
    ),
    "each node has its own streams, denials and suspensions by the circuit breaker": (
        "test_audit::test_command_that_fails_is_corrected_in_the_trail",
        "test_audit::test_old_events_go_when_the_policy_says_so",
        "test_batch::test_batch_is_one_event_that_lists_what_changes",
        "test_batch::test_batch_over_its_bounds_is_refused_whole",
        "test_batch::test_each_command_of_a_batch_counts",
        "test_breaker::test_agent_in_a_refusal_loop_suspends_itself",
        "test_breaker::test_freeze_outlasts_what_an_identity_did_to_itself",
        "test_breaker::test_full_memory_leaves_refusals_as_they_are",
        "test_breaker::test_suspending_itself_is_on_record_and_is_no_refusal",
        "test_breaker::test_thaw_lets_it_act_and_forgets_what_was_counted",
        "test_denials::test_hash_that_no_guard_made_is_not_read",
        "test_denials::test_numbers_of_repeats_are_written_down_when_their_minute_is_over",
        "test_denials::test_token_makes_a_bounded_number_of_entries_a_minute",
        "test_recording::test_cost_is_what_the_call_took_of_each_counter",
        "test_hostile_records::test_event_number_that_is_none_begins_again",
        "test_hostile_records::test_list_of_denials_of_hostile_bytes_suspends",
        "test_recording::test_events_older_than_retain_says_are_trimmed",
        "test_recording::test_images_of_an_event_have_a_bound_together",
        "test_recording::test_trail_that_waits_for_its_export_is_never_trimmed",
        "test_rotation::test_uses_are_what_the_trail_has_*",
    ),
    "a shard acts on its lease, and looks at no record of the home meanwhile": (
        "test_activation::test_changed_rate_keeps_what_it_counted",
        "test_activation::test_lost_state_stops_the_identity_rather_than_resetting_it",
        "test_activation::test_old_guard_is_stale_*",
        "test_batch::test_batch_script_of_an_earlier_policy_is_stale",
        "test_batch::test_malformed_batch_is_refused_whole",
        "test_distress::test_full_memory_does_not_keep_an_agent_from_being_stopped",
        "test_hostile_records::test_any_bytes_are_answered",
        "test_hostile_records::test_state_of_hostile_numbers_is_denied_or_counts",
        "test_hostile_records::test_token_record_of_hostile_bytes_is_denied",
        "test_rotation::test_last_use_is_known_to_a_minute_and_never_is_never",
        "test_rotation::test_rotated_token_is_good_until_the_grace_is_over",
        "test_suspension::test_suspension_whose_time_is_over_is_none_and_is_forgotten",
        "test_tokens::test_idle_token_expires_and_use_keeps_it_alive",
        "test_tokens::test_live_token_works_until_the_instant_it_expires",
        "test_tokens::test_refused_call_does_not_keep_an_idle_token_alive",
        "test_verdicts::test_refusals_follow_the_fixed_order",
    ),
    "a load of the same policy ends the leases that were granted before": (
        "test_activation::test_load_of_the_same_policy_changes_nothing_and_says_so",
    ),
    "units are charged when they are granted, before they are used": (
        "test_staging::test_calls_between_staging_and_activation_are_counted",
        "test_staging::test_every_call_is_counted_once_while_loads_follow_each_other",
        "test_staging::test_load_that_stops_after_staging_changes_nothing",
        "test_staging::test_load_whose_staged_keys_are_gone_activates_nothing",
        "test_staging::test_of_two_loads_with_staged_states_one_wins_wholly",
    ),
    "not adapted: the test itself reads what one server or its client has": (
        "test_activation::test_old_scripts_are_forgotten_in_the_source_record",
        "test_activation::test_server_that_names_a_script_otherwise_activates_nothing",
        "test_distress::test_wrapper_raises_the_servers_own_error",
        "test_functions::test_function_tells_people_whose_guard_it_is",
        "test_functions::test_functions_that_another_load_deletes_are_there_in_the_end",
        "test_functions::test_interrupted_load_leaves_the_old_policy_whole",
        "test_functions::test_load_in_another_database_*",
        "test_functions::test_load_that_was_overtaken_*",
        "test_functions::test_lost_functions_come_back_*",
        "test_functions::test_new_policy_takes_the_old_functions_away",
        "test_functions::test_operator_who_may_not_load_functions_*",
        "test_functions::test_policy_by_functions_is_called_by_fcall_alone",
        "test_functions::test_same_policy_loaded_twice_changes_nothing",
        "test_functions::test_transport_is_changed_both_ways_*",
        "test_modules::test_loading_a_module_changes_no_guard_that_does_not_name_it",
        "test_restore::test_acl_user_has_restore_only_if_a_grant_names_it",
        "test_secrets",
        "test_server_commands::test_module_command_is_given_by_name_only",
        "test_server_commands::test_policy_with_absent_commands_alone_still_loads",
        "test_server_commands::test_second_load_changes_nothing_*",
        "test_server_commands::test_server_that_got_other_commands_gets_other_guards",
        "test_server_commands::test_token_is_issued_for_a_policy_that_names_a_module_command",
        "test_server_commands::test_user_without_command_*",
        "test_tokens::test_list_by_whoever_may_only_read_is_the_same",
        "test_tokens::test_only_the_hash_of_a_token_is_stored",
        "test_transports",
        "test_values::test_write_is_denied_if_and_only_if_it_would_break_a_rule",
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
