"""Owns what the library guarantees, in a few words each, and which tests show it.

`python -m tests.guarantees` prints the table as it stands in the guide's chapter on faults.
"""

from __future__ import annotations

from typing import NamedTuple


class Guarantee(NamedTuple):
    """One promise.

    :param name: what it is called
    :param words: what is promised
    :param tests: the tests that show it, as pytest names them below their folder
    """

    name: str
    words: str
    tests: tuple[str, ...]


GUARANTEES = (
    Guarantee(
        "The loop stays free",
        "In bridged code the loop's thread neither talks to a server nor waits for a lock that is held meanwhile.",
        (
            "bridge/test_contexts.py::test_other_tasks_run_while_a_bridged_statement_waits",
            "connection/test_sync_connection.py::test_same_as_pymysql",
            "connection/test_sync_cursor.py::test_same_as_pymysql",
            "connection/test_physical.py::test_who_waits_does_not_block_the_loop",
            "contrib/test_blockbuster.py::test_the_main_paths",
            "contrib/test_blockbuster.py::test_shared_connections",
            "contrib/test_blockbuster.py::test_shutting_down_in_the_middle",
            "contrib/test_coverage.py::test_each_cell_is_measured",
            "drivers/test_other_drivers.py::test_the_loop_turns_meanwhile",
            "pool/test_pool.py::test_finalisers_do_no_io_on_the_loop",
        ),
    ),
    Guarantee(
        "Bounded",
        "Never more than `size` connections or busy threads for a pool, nor more than a lane's limit, also while "
        "cancelled calls wind down; who waits is served in order; nothing deadlocks.",
        (
            "bridge/test_bridge.py::test_no_more_busy_threads_than_connections",
            "bridge/test_bridge.py::test_no_more_threads_than_the_limit_while_winding_down",
            "pool/test_deadlock.py::test_everybody_finishes",
            "pool/test_deadlock.py::test_of_holders_that_all_want_a_second_one_is_refused",
            "pool/test_deadlock.py::test_a_holder_gets_a_thread_while_others_wait_in_threads",
            "pool/test_lanes.py::test_first_come_first_served_across_tasks_and_threads",
            "pool/test_lanes.py::test_limits_hold_while_cancelled_calls_wind_down",
            "pool/test_lanes.py::test_nobody_overtakes_who_waits",
            "pool/test_mixed_load.py::test_exact_accounting",
            "pool/test_pool.py::test_takes_over_the_connections_of_a_pooled_db",
        ),
    ),
    Guarantee(
        "Sent at most once",
        "No statement is tried again behind the caller's back; the error says whether a write may have happened.",
        (
            "faults/test_at_most_once.py::test_a_link_killed_between_two_updates",
            "faults/test_at_most_once.py::test_a_link_killed_during_an_update",
            "faults/test_at_most_once.py::test_com_insert_counts_each_insert_once",
            "faults/test_at_most_once.py::test_a_commit_whose_link_breaks",
            "faults/test_at_most_once.py::test_a_lock_wait_timeout_reaches_the_caller",
            "faults/test_at_most_once.py::test_a_deadlock_reaches_the_caller",
            "faults/test_awaitable_calls.py::test_link_cut",
            "faults/test_network.py::test_a_write_over_a_link_that_breaks",
            "faults/test_transactions.py::test_a_transaction_cut_at_every_boundary",
        ),
    ),
    Guarantee(
        "Cancelling a task kills its statement",
        "In both modes, on the server that runs it and no other; the handler's own clean-up works, and no later "
        "statement is hit.",
        (
            "bridge/test_cancelled_threads.py::test_the_statement_is_killed",
            "bridge/test_cancelled_threads.py::test_no_later_statement_is_hit",
            "faults/test_balancer.py::test_ids_that_collide",
            "faults/test_balancer.py::test_the_right_server_is_out_of_reach",
            "faults/test_cancellation.py::test_a_cancelled_statement_is_killed",
            "faults/test_cancellation.py::test_a_statement_in_the_finally_block_of_a_cancelled_scope",
            "faults/test_cancellation.py::test_cancelled_at_random_points",
            "faults/test_every_await.py::test_each_suspension_of_a_killing",
            "faults/test_every_await.py::test_each_suspension_of_a_transaction",
            "faults/test_kills.py::test_a_kill_that_comes_late_is_absorbed",
            "faults/test_kills.py::test_cancelled_close_to_the_natural_end",
            "faults/test_kills.py::test_no_kill_possible",
        ),
    ),
    Guarantee(
        "Timeouts do the same",
        "They raise `StatementTimeout` in bridged code, in threads of handlers and in plain ones.",
        (
            "faults/test_timeouts.py::test_the_pools_statement_timeout",
            "faults/test_timeouts.py::test_the_lanes_statement_timeout",
            "faults/test_timeouts.py::test_one_deadline_over_many_statements",
            "faults/test_timeouts.py::test_the_natural_end_beats_the_timeout",
            "faults/test_timeouts.py::test_a_blackholed_link",
            "faults/test_awaitable_calls.py::test_timed_out",
            "drivers/test_other_drivers.py::test_statement_timeouts",
        ),
    ),
    Guarantee(
        "No dirty connection is used again",
        "What is open is rolled back, what is clean for certain costs no trip, what is in doubt is thrown out.",
        (
            "connection/test_session_state.py::test_everyday_statements_cost_no_round_trip_more",
            "connection/test_session_state.py::test_databases_and_locks",
            "connection/test_reading_ahead.py::test_many_rows_left_are_not_read",
            "faults/test_awaitable_calls.py::test_returned_dirty",
            "faults/test_leaks.py::test_too_old_connections_are_replaced",
            "faults/test_leftover_bytes.py::test_an_answer_too_many_is_nobodys",
            "faults/test_transactions.py::test_row_locks_never_survive_a_checkin",
            "pool/test_checkin.py::test_an_open_transaction_ends_at_checkin",
            "pool/test_checkin.py::test_a_converter_that_fails_in_mid_result",
            "pool/test_checkin.py::test_an_abandoned_result_is_never_read_by_the_next",
            "pool/test_checkin.py::test_session_settings_are_restored",
        ),
    ),
    Guarantee(
        "Nothing leaks",
        "A connection that nobody closes comes back without I/O in its finaliser; one that is held for long is "
        "reported with the place that took it.",
        (
            "connection/test_failures.py::test_a_failed_statements_locals_are_freed",
            "connection/test_sync_connection.py::test_dropping_works_without_the_garbage_collector",
            "faults/test_awaitable_calls.py::test_dropped",
            "faults/test_leaks.py::test_a_finaliser_does_no_io",
            "faults/test_leaks.py::test_reported_once_and_again_when_it_comes_back",
            "faults/test_leaks.py::test_the_watch_keeps_nothing_alive",
            "pool/test_checkin.py::test_a_dropped_clean_connection_is_idle_again",
            "pool/test_pool.py::test_a_closed_cursor_does_not_keep_its_connection",
        ),
    ),
    Guarantee(
        "A shared connection behaves as before",
        "It belongs to the outermost call that uses it until that call's end; others wait, and the loop does not.",
        (
            "connection/test_physical.py::test_transactions_on_one_connection_do_not_mix",
            "connection/test_physical.py::test_results_never_mix",
            "connection/test_physical.py::test_children_share_the_ownership",
            "connection/test_physical.py::test_children_by_gather_and_create_task",
            "connection/test_physical.py::test_close_hands_over",
            "connection/test_physical.py::test_shared_connections_in_a_ring",
            "connection/test_shared_connections.py::test_waiting_for_another_call",
            "connection/test_unpooled.py::test_a_module_global_is_shared",
        ),
    ),
    Guarantee(
        "Survives the server",
        "After a restart, a failover or an idle disconnect the next checkout gets a live connection; a silent server "
        "costs a bounded wait.",
        (
            "connection/test_sync_connection.py::test_closed_means_closed",
            "faults/test_network.py::test_cut_while_idle",
            "faults/test_network.py::test_a_deaf_server",
            "faults/test_network.py::test_silence_at_any_point_of_the_handshake",
            "faults/test_network.py::test_many_links_that_something_forgot",
            "faults/test_server_death.py::test_restarted_while_idle",
            "faults/test_server_death.py::test_killed_under_twenty_inserting_callers",
            "faults/test_server_death.py::test_no_storm_of_connects",
            "faults/test_server_death.py::test_failover_to_a_writable_node",
        ),
    ),
    Guarantee(
        "Shutdown",
        "`aclose()` drains, then kills, then closes everything; a forked child shares no socket with its parent.",
        (
            "faults/test_every_await.py::test_each_suspension_of_aclose",
            "faults/test_fork.py::test_a_child_has_connections_of_its_own",
            "faults/test_fork.py::test_forked_while_other_threads_are_in_the_middle",
            "faults/test_shutdown.py::test_aclose_drains",
            "faults/test_shutdown.py::test_aclose_kills_the_rest",
            "faults/test_shutdown.py::test_aclose_lets_nobody_in_who_still_connects",
            "faults/test_shutdown.py::test_close_on_a_thread",
            "faults/test_shutdown.py::test_the_interpreter_exits",
        ),
    ),
    Guarantee(
        "Faithful",
        "What works through DBUtils and PyMySQL works the same: results, errors, attributes, closing, threads.",
        (
            "connection/test_sync_connection.py::test_same_as_pymysql",
            "connection/test_sync_connection.py::test_leaving_a_with_block_rolls_back",
            "connection/test_sync_connection.py::test_opened_used_and_closed_on_three_threads",
            "connection/test_sync_cursor.py::test_same_as_pymysql",
            "connection/test_sync_cursor.py::test_reading_in_any_order_is_the_same_as_in_pymysql",
            "connection/test_unpooled.py::test_bad_arguments_raise_what_pymysql_raises",
            "contrib/test_sqlalchemy_suite.py::test_the_dialects_own_tests",
            "drivers/test_other_drivers.py::test_statements",
            "drivers/test_pymysql_reader.py::test_fuzzed_answers",
            "test_errors.py::test_old_handlers_catch_it",
        ),
    ),
    Guarantee(
        "Context",
        "Context variables and tracing spans flow into the worker; an error keeps its type, arguments and lines.",
        (
            "bridge/test_bridge.py::test_context_variables_flow_into_the_worker",
            "bridge/test_decorator.py::test_context_variables",
            "bridge/test_handled_errors.py::test_as_without_the_decorator",
            "bridge/test_shared_statements.py::test_each_in_the_context_of_its_task",
            "connection/test_failures.py::test_errors_keep_type_arguments_and_lines",
            "connection/test_failures.py::test_driver_errors",
            "contrib/test_tracing.py::test_statements_nest_under_the_request",
            "contrib/test_tracing.py::test_requests_at_once_keep_their_spans",
        ),
    ),
)


def table() -> str:
    """Return the guarantees as a table of Markdown, with links to the tests' files from a chapter of the guide."""
    lines = ["| guarantee | shown by |", "|---|---|"]
    for guarantee in GUARANTEES:
        files: dict[str, list[str]] = {}
        for test in guarantee.tests:
            file, _, name = test.partition("::")
            files.setdefault(file, []).append(f"`{name.removeprefix('test_')}`")
        shown = "; ".join(f"[{file}](../../tests/{file}): {', '.join(names)}" for file, names in files.items())
        lines.append(f"| **{guarantee.name}.** {guarantee.words} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
