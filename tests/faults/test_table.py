"""Owns the claim that each row of the tables of faults is shown by tests.

A row that is added, removed or reworded has to be found here with the tests that show it.
"""

from __future__ import annotations

import pytest

from tests.evidence import first_column, missing, tables_below

SHOWN_BY = {
    "its task is cancelled during a statement": [
        "faults/test_cancellation.py::test_a_cancelled_statement_is_killed",
        "faults/test_cancellation.py::test_a_statement_in_the_finally_block_of_a_cancelled_scope",
        "faults/test_kills.py::test_cancelled_close_to_the_natural_end",
        "faults/test_kills.py::test_no_kill_possible",
        "faults/test_balancer.py::test_ids_that_collide",
    ],
    "a statement runs past `statement_timeout`": [
        "faults/test_timeouts.py::test_the_pools_statement_timeout",
        "faults/test_timeouts.py::test_the_lanes_statement_timeout",
    ],
    "no connection is free": [
        "pool/test_lanes.py::test_first_come_first_served_across_tasks_and_threads",
        "pool/test_pool.py::test_waits_though_the_wrapped_pool_would_not",
    ],
    "its lane is full": [
        "pool/test_lanes.py::test_a_full_lane_lets_the_others_pass",
        "pool/test_lanes.py::test_lane_full_refuses_at_once",
    ],
    "the link breaks during a statement": [
        "faults/test_at_most_once.py::test_a_link_killed_during_an_update",
        "faults/test_at_most_once.py::test_killed_once",
        "faults/test_network.py::test_a_write_over_a_link_that_breaks",
    ],
    "its task is cancelled while it waits for a connection": [
        "faults/test_every_await.py::test_each_suspension_of_a_checkout_that_waits",
        "pool/test_waiters_that_leave.py::test_a_cancelled_waiter_loses_no_slot",
    ],
    'its task is cancelled in `mode="thread"`': [
        "bridge/test_thread_mode.py::test_cancellation_comes_when_the_thread_is_back",
        "bridge/test_cancelled_threads.py::test_the_statement_is_killed",
        "bridge/test_cancelled_threads.py::test_what_has_no_statement_is_waited_for",
        "bridge/test_cancelled_threads.py::test_waiting_for_a_connection",
    ],
    "it hands its connection or cursor to a thread or task outside of it": [
        "connection/test_outsiders.py::test_a_cursor_that_is_handed_on",
        "connection/test_outsiders.py::test_one_call_at_a_time",
    ],
    "another call keeps a shared connection": [
        "connection/test_shared_connections.py::test_waiting_for_another_call",
        "connection/test_shared_connections.py::test_the_log_says_who_keeps_it",
    ],
    "all of its database calls together take longer than `@offload(timeout=…)` allows": [
        "faults/test_timeouts.py::test_one_deadline_over_many_statements",
        "faults/test_timeouts.py::test_the_deadline_covers_waiting",
        "faults/test_timeouts.py::test_the_deadline_covers_connecting",
        "faults/test_timeouts.py::test_the_deadline_covers_a_sign_of_life",
        "faults/test_timeouts.py::test_the_deadline_covers_fetching",
    ],
    "it holds a connection, wants one more, and every holder waits": [
        "pool/test_deadlock.py::test_of_holders_that_all_want_a_second_one_is_refused",
    ],
    "a link broke while it was idle": [
        "faults/test_network.py::test_cut_while_idle",
        "faults/test_network.py::test_disconnected_for_idleness",
        "faults/test_network.py::test_many_links_that_something_forgot",
        "faults/test_server_death.py::test_restarted_while_idle",
    ],
    "the server can't be reached": ["faults/test_server_death.py::test_no_storm_of_connects"],
    "the server accepts a connection and says nothing": [
        "faults/test_network.py::test_a_deaf_server",
        "faults/test_network.py::test_a_deaf_server_where_queries_may_take_long",
        "faults/test_network.py::test_silence_at_any_point_of_the_handshake",
    ],
    "the server is killed and comes back": [
        "faults/test_server_death.py::test_killed_under_twenty_inserting_callers",
        "faults/test_server_death.py::test_killed_in_a_transaction",
    ],
    "the server turns read-only, or leaves its cluster": [
        "faults/test_server_death.py::test_failover_to_a_writable_node",
    ],
    "its client disconnects": [
        "faults/test_disconnect.py::test_a_handler_that_watches_its_client",
        "faults/test_disconnect.py::test_a_handler_that_nobody_cancels",
        "faults/test_disconnect.py::test_a_streaming_body",
    ],
    "the process forks": [
        "faults/test_fork.py::test_a_child_has_connections_of_its_own",
        "faults/test_fork.py::test_forked_while_a_connection_is_out",
        "faults/test_fork.py::test_a_connection_of_no_pool",
    ],
    "it closes the connection with results left unread": [
        "connection/test_unread_results.py::test_a_procedure_comes_to_its_end",
        "connection/test_unread_results.py::test_what_else_may_write",
        "connection/test_unread_results.py::test_in_a_cancelled_scope",
        "connection/test_unread_results.py::test_a_dropped_connection",
        "connection/test_unread_results.py::test_it_is_bounded",
        "connection/test_unread_results.py::test_a_limit_of_the_pool_kills",
        "connection/test_unread_results.py::test_a_limit_of_the_call_kills",
        "connection/test_unread_results.py::test_rows_that_only_read_are_cut_off",
        "connection/test_unread_results_others.py::test_a_procedure_comes_to_its_end",
    ],
    "it leaves a transaction open and closes the connection": [
        "pool/test_checkin.py::test_an_open_transaction_ends_at_checkin",
        "faults/test_transactions.py::test_row_locks_never_survive_a_checkin",
    ],
    "it forgets to close the connection": [
        "pool/test_checkin.py::test_a_dropped_clean_connection_is_idle_again",
        "pool/test_checkin.py::test_a_connection_dropped_in_a_transaction_is_discarded",
        "faults/test_leaks.py::test_reported_once_and_again_when_it_comes_back",
    ],
    "a converter or a decoder fails in mid-result": ["pool/test_checkin.py::test_a_converter_that_fails_in_mid_result"],
    "the application shuts down with `await pool.aclose()`": [
        "faults/test_shutdown.py::test_aclose_drains",
        "faults/test_shutdown.py::test_aclose_kills_the_rest",
        "faults/test_shutdown.py::test_aclose_lets_nobody_in_who_still_connects",
    ],
}


def rows() -> list[str]:
    """Return the first column of the tables of faults: the usual ones in the README, then all others in the guide."""
    usual = tables_below("README.md", "What happens when …")
    tables = [*usual, *tables_below("examples/guide/faults.md", "All other faults")]
    assert len(tables) == 2
    return [row for table in tables for row in first_column(table)]


def test_each_row_is_shown() -> None:
    """The tables of faults have the rows that tests are named for here, and no other."""
    assert rows() == list(SHOWN_BY)


@pytest.mark.parametrize("test", sorted({test for tests in SHOWN_BY.values() for test in tests}))
def test_each_test_is_there(test: str) -> None:
    """A test that the table rests on has not been renamed or removed."""
    assert missing([test]) == []
