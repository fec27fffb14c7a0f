"""Claims about what can be set, for which calls it holds, and what is said of what cannot."""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import Any

import pytest

from offload_db import ConfigurationError, offload, rollout
from offload_db.rollout.targets import Request, Target
from tests.rollout import inside

pytestmark = pytest.mark.anyio

TRUCK = Request(("app.api.get_truck",), "GET", "/v2/truck/{truck_id}")
UNROUTED = Request((), "GET", None, "/v2/truck/17")


@offload
async def handler() -> str:
    return "answer"


@offload
async def other() -> None: ...


HANDLER, OTHER = (f"{__name__}.{function.__name__}" for function in (handler, other))


def row(target: str) -> rollout.RouteRollout:
    (found,) = [row for row in rollout.snapshot() if row.target == target]
    return found


@pytest.mark.parametrize(
    ("target", "routed", "unrouted"),
    [
        ("*", True, True),
        ("GET:/v2/truck/{truck_id}", True, True),
        ("get:/v2/truck/{truck_id}", True, True),
        ("GET:/v2/truck/{id}", True, True),
        ("GET:/v2/truck/{id:int}", True, True),
        ("GET:/v2/{rest:path}", False, True),
        ("GET:/v2/*", True, True),
        ("GET:*", True, True),
        ("*:/v2/*", True, True),
        ("*:*", True, True),
        ("POST:/v2/*", False, False),
        ("GET:/v2/truck/17", False, True),
        ("GET:/v2/truck", False, False),
        ("GET:/v2/truck/{id}/*", False, False),
        ("app.api.get_truck", True, False),
        ("app.*", True, False),
        ("*.get_truck", True, False),
        ("app.api.get_trucks", False, False),
        ("app.api.get.truck", False, False),
    ],
)
def test_what_a_target_matches(target: str, routed: bool, unrouted: bool) -> None:
    """Routes by method and template, by path where none is chosen yet; functions by their full names."""
    assert (Target("here", target).matches(TRUCK), Target("here", target).matches(UNROUTED)) == (routed, unrouted)


def test_outside_of_requests_only_functions_and_everything_match() -> None:
    """A call that belongs to no request is matched by no route."""
    call = Request(("app.jobs.nightly",))
    matching = [t for t in ("*", "GET:*", "*:*", "app.jobs.*", "app.jobs.nightly") if Target("here", t).matches(call)]
    assert matching == ["*", "app.jobs.*", "app.jobs.nightly"]


def test_the_most_specific_target_holds() -> None:
    """A function before a route, a route before wildcards, long ones before short ones, and everything last."""
    ordered = ["app.api.get_truck", "GET:/v2/truck/{truck_id}", "GET:/v2/truck/*", "app.api.*", "*.api.*", "GET:*", "*"]
    for target in reversed(ordered):
        rollout.set(target, "observe")
    assert [row.target for row in rollout.snapshot()] == ordered
    for target in ordered:
        rule = inside.rules_of().find(TRUCK)
        assert rule is not None
        assert rule.target.text == target
        rollout.clear(target)
    assert inside.rules_of().find(TRUCK) is None


def test_one_rule_for_one_target() -> None:
    """What is set again is set in place of what was; how a parameter is named makes no difference."""
    rollout.set("GET:/truck/{truck_id}", "observe")
    rollout.set("get:/truck/{id}", "offload", share=0.5)
    (row,) = rollout.snapshot()
    assert (row.target, row.mode, row.share, row.source) == ("GET:/truck/{id}", "offload", 0.5, "call")


@pytest.mark.parametrize(
    "target", ["", "GET /v2", "GET:v2", "handler", "a..b", ".a", "GET:/v2 x", "/v2", 7, None, b"*"]
)
def test_what_is_no_target_is_refused(target: Any) -> None:
    """A target that is written otherwise is an error which says what is accepted, and changes nothing."""
    for act in (lambda: rollout.set(target, "block"), lambda: rollout.guard(target)):
        with pytest.raises(ConfigurationError, match=r"rollout.(set|guard): target=.*accepted are 'GET:/truck/"):
            act()
    assert rollout.snapshot() == ()


@pytest.mark.parametrize("mode", ["", "blok", "off", None, True, 1, ["block"]])
def test_what_is_no_mode_is_refused(mode: Any) -> None:
    """An unknown mode is an error that names the three."""
    accepted = "rollout.set: mode=.*accepted are 'offload', 'observe' and 'block'"
    with pytest.raises(ConfigurationError, match=accepted):
        rollout.set("*", mode)
    assert rollout.snapshot() == ()


@pytest.mark.parametrize("share", [-0.1, 1.1, 100, math.nan, math.inf, "0.5", None, True, [1]])
def test_what_is_no_share_is_refused(share: Any) -> None:
    """A share outside 0 to 1, or that is no number, is an error."""
    with pytest.raises(ConfigurationError, match=r"rollout.set: share=.*accepted are numbers from 0.0 to 1.0"):
        rollout.set("*", "offload", share=share)
    assert rollout.snapshot() == ()


@pytest.mark.parametrize("settings", [{"error_ratio": 0}, {"p95_ratio": "2"}, {"min_calls": 0}, {"interval": 0}])
def test_what_no_guard_can_go_by_is_refused(settings: Any) -> None:
    """A guard's settings are checked, and named."""
    with pytest.raises(ConfigurationError, match=f"rollout.guard: {next(iter(settings))}="):
        rollout.guard(**settings)


@pytest.mark.parametrize(
    ("mode", "share", "counted"),
    [
        ("offload", 1.0, {"offload": 4}),
        ("offload", 0.5, {"offload": 2, "observe": 2}),
        ("offload", 0.0, {"observe": 4}),
        ("observe", 1.0, {"observe": 4}),
        ("observe", 0.5, {"observe": 2, "offload": 2}),
        ("block", 1.0, {"block": 4}),
        ("block", 0.5, {"block": 2, "offload": 2}),
        ("block", 0.0, {"offload": 4}),
    ],
)
async def test_what_the_share_means(monkeypatch: pytest.MonkeyPatch, mode: Any, share: float, counted: Any) -> None:
    """A share of the calls runs in the mode that is set, and the others in the other one."""
    numbers = iter([0.1, 0.9, 0.4, 0.6])
    inside.seeded(monkeypatch, lambda: next(numbers))
    rollout.set("*", mode, share=share)
    for _ in range(4):
        assert await handler() == "answer"
    (everything, own) = rollout.snapshot()
    assert (everything.target, own.target) == ("*", HANDLER)
    assert {mode: arm.calls for mode, arm in everything.arms.items()} == counted
    assert everything.arms == own.arms
    assert (everything.matched, own.matched, everything.rule, own.rule) == (4, 4, "*", "*")
    assert (own.mode, own.share, own.source) == (mode, share, "call")


async def test_the_share_is_kept() -> None:
    """Of 10,000 requests a share of 0.1 is offloaded, within the interval that holds 99.99 % of such counts."""
    number, share = 10_000, 0.1
    rollout.set(HANDLER, "offload", share=share)
    for _ in range(number):
        await handler()
    arms = row(HANDLER).arms
    assert arms["offload"].calls + arms["observe"].calls == number
    spread = 3.9 * math.sqrt(number * share * (1 - share))
    assert abs(arms["offload"].calls - number * share) < spread


async def test_a_change_takes_effect_with_the_next_call() -> None:
    """What is set holds from the next call on, and what is cleared is offloaded again."""
    rollout.watch_routes()
    for mode in ("block", "observe", "offload", "block"):
        rollout.set(HANDLER, mode)
        await handler()
    rollout.clear(HANDLER)
    await handler()
    found = row(HANDLER)
    assert {mode: arm.calls for mode, arm in found.arms.items()} == {"block": 2, "observe": 1, "offload": 2}
    assert (found.mode, found.share, found.source, found.rule) == ("offload", 1.0, "default", None)


async def test_nothing_is_counted_where_nothing_is_set() -> None:
    """Without a rule there are no rows; with one, calls that it is not for have none either."""
    await handler()
    assert rollout.snapshot() == ()
    rollout.set(HANDLER, "observe")
    await other()
    await handler()
    assert [row.target for row in rollout.snapshot()] == [HANDLER]
    rollout.watch_routes()
    await other()
    assert [row.target for row in rollout.snapshot()] == [HANDLER, OTHER]


async def test_clearing_takes_all_rules_away() -> None:
    """Without a target all rules are gone, and the figures of routes stay."""
    rollout.set("*", "block")
    rollout.set(HANDLER, "observe")
    await handler()
    rollout.clear()
    assert [(row.target, row.rule) for row in rollout.snapshot()] == [(HANDLER, None)]
    with pytest.raises(ConfigurationError, match=r"rollout.clear: target="):
        rollout.clear("no target")


async def test_errors_by_class() -> None:
    """What a call raises is counted by its class; an answer below 500 is none, one from 500 up is by its status."""

    class Answer(Exception):
        def __init__(self, status_code: int) -> None:
            self.status_code = status_code

    class Response:
        status_code = 503

    @offload
    async def failing(error: BaseException | None) -> Any:
        if error is not None:
            raise error
        return Response()

    rollout.set("*", "observe")
    for error in (ValueError(), ValueError(), KeyError("secret"), Answer(404), Answer(500), None):
        if error is None:
            await failing(None)
        else:
            with pytest.raises(type(error)):
                await failing(error)
    arm = rollout.snapshot()[0].arms["observe"]
    assert arm.calls == 6
    assert arm.errors == {"ValueError": 2, "KeyError": 1, "HTTP 500": 1, "HTTP 503": 1}


async def test_a_target_that_matches_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After some calls the log names it once, with what may be meant, and the snapshot shows that it matched none."""
    inside.tells_after(monkeypatch, 3)
    rollout.watch_routes()
    rollout.set(f"{__name__}.handlers", "block")
    rollout.set(OTHER, "block")
    with caplog.at_level(logging.INFO, logger="offload_db.rollout"):
        for _ in range(5):
            await other()
            await handler()
    assert [record.getMessage() for record in caplog.records] == [
        f"the target {__name__}.handlers has matched none of 3 calls; did you mean {HANDLER}?"
    ]
    assert row(f"{__name__}.handlers").matched == 0
    assert row(OTHER).matched == 5


async def test_the_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routes beyond the most that are told apart share a row."""
    inside.most_rows(monkeypatch, 3)
    rollout.watch_routes()

    def named(number: int) -> Any:
        async def function() -> None: ...

        function.__qualname__ = f"function_{number}"
        return offload(function)

    for number in range(6):
        await named(number)()
    assert Counter(row.target for row in rollout.snapshot()) == {
        "(further routes)": 1,
        **{f"{__name__}.function_{number}": 1 for number in range(3)},
    }
    assert row("(further routes)").matched == 3


@pytest.mark.parametrize("value", ["offload", "observe", "block"])
async def test_the_environment_sets_a_mode(value: str) -> None:
    """OFFLOAD_DB_ROLLOUT is a mode for everything."""
    inside.from_environment({"OFFLOAD_DB_ROLLOUT": value})
    assert [(row.target, row.mode, row.share, row.source) for row in rollout.snapshot()] == [
        ("*", value, 1.0, "environment")
    ]
    await handler()
    assert {mode: arm.calls for mode, arm in row(HANDLER).arms.items()} == {value: 1}


@pytest.mark.parametrize("value", ["blok", "Block", "0", "hunter2"])
def test_an_environment_that_says_anything_else_is_refused(value: str) -> None:
    """The error names the variable and what is accepted, and shows nothing that may be secret."""
    with pytest.raises(
        ConfigurationError, match=r"OFFLOAD_DB_ROLLOUT=.*accepted are 'offload', 'observe', 'block', "
    ) as e:
        inside.from_environment({"OFFLOAD_DB_ROLLOUT": value})
    assert "hunter2" not in str(e.value)


def test_an_empty_environment_sets_nothing() -> None:
    """Empty is as if it were not there."""
    inside.from_environment({})
    inside.from_environment({"OFFLOAD_DB_ROLLOUT": " "})
    assert rollout.snapshot() == ()


async def test_what_a_call_sets_holds_before_the_environment() -> None:
    """A rule that is set by call stands in place of the environment's for the same target, until it is cleared."""
    inside.from_environment({"OFFLOAD_DB_ROLLOUT": "block"})
    rollout.set("*", "observe")
    assert [(row.mode, row.source) for row in rollout.snapshot()] == [("observe", "call")]
    rollout.clear("*")
    assert rollout.snapshot() == ()


async def test_a_forked_child_counts_anew() -> None:
    """What is set stays set in a child, and the figures are its own."""
    rollout.set("*", "observe")
    await handler()
    inside.after_fork()
    assert [(row.target, row.matched, dict(row.arms)) for row in rollout.snapshot()] == [("*", 0, {})]
    await handler()
    assert row(HANDLER).matched == 1


def test_a_snapshot_cannot_be_changed() -> None:
    """Rows and arms are frozen."""
    rollout.set("*", "observe")
    (found,) = rollout.snapshot()
    with pytest.raises(AttributeError):
        found.share = 0.0  # type: ignore[misc]  # that is the claim
    with pytest.raises(TypeError):
        found.arms["offload"] = rollout.Arm()  # type: ignore[index]  # as above
