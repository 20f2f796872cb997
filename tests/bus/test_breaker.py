"""When calls are held because an endpoint is down, and how they go on."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sojourn.bus.breaker import BREAKERS, HOSTS, PROBE, SPACING, WINDOW, Breakers, Handler, State

MAIL = Handler("mailer", "CartAbandoned")
OTHER = Handler("mailer", "OrderPlaced")
SMS = Handler("texter", "CartAbandoned")


def breakers() -> Breakers:
    return Breakers(lambda: 0.0)


def fail(
    them: Breakers, customers: Iterable[int], now: float = 0.0, *, handler: Handler = MAIL, hosts: Iterable[str] = ()
) -> list[bool]:
    """Calls of that many customers, one after the other, that fail; whether each counted as an attempt."""
    hosts = list(hosts)
    return [them.failed(handler, f"c{number}", now, hosts=hosts) for number in customers]


def opened(**options: object) -> Breakers:
    them = breakers()
    fail(them, range(5), **options)  # type: ignore[arg-type] # handed on
    return them


def states(them: Breakers, now: float = 0.0) -> dict[str, State]:
    return {str(one.handler or one.host): one.state for one in them.snapshot(now)}


# Opening


def test_five_customers_in_a_row_open_it() -> None:
    them = breakers()
    assert fail(them, range(4)) == [True] * 4
    assert them.may_call(MAIL, "c9", 0) == 0
    assert fail(them, [4]) == [True]
    assert them.may_call(MAIL, "c9", 0) == 1


def test_one_customers_own_trouble_never_opens_it() -> None:
    them = breakers()
    for second in range(1_000):
        fail(them, [1, 2, 3, 4], second)
    assert them.may_call(MAIL, "c9", 1_000) == 0


def test_a_success_between_ends_the_row() -> None:
    them = breakers()
    fail(them, range(4))
    them.succeeded(MAIL, "c77", 1)
    fail(them, range(4, 8), 1)
    assert them.may_call(MAIL, "c9", 1) == 0
    assert fail(them, [8], 1) == [True]
    assert them.may_call(MAIL, "c9", 1) > 0


@pytest.mark.parametrize(("apart", "opens"), [(WINDOW / 4 - 0.1, True), (WINDOW / 4, False)])
def test_failures_far_apart_are_no_row(apart: float, opens: bool) -> None:
    them = breakers()
    for number in range(5):
        fail(them, [number], number * apart)
    assert (them.may_call(MAIL, "c9", 4 * apart) > 0) is opens


def test_other_handlers_go_on() -> None:
    them = opened()
    assert them.may_call(OTHER, "c1", 0) == them.may_call(SMS, "c1", 0) == 0
    them.succeeded(OTHER, "c1", 0)
    assert them.may_call(MAIL, "c1", 0) > 0


# While it is open


def test_the_refused_come_back_one_after_the_other_in_their_order() -> None:
    them = opened()
    waits = [them.may_call(MAIL, f"c{number}", 0.25) for number in range(100)]
    assert waits == pytest.approx([0.75 + number * SPACING for number in range(100)])


def test_a_single_call_is_let_through_after_the_pause() -> None:
    them = opened()
    assert them.may_call(MAIL, "c1", 0.99) > 0
    assert them.may_call(MAIL, "c2", 1.0) == 0
    assert states(them, 1.0) == {"mailer on CartAbandoned": State.HALF_OPEN}
    assert all(them.may_call(MAIL, f"c{number}", 1.0) >= 1 for number in range(3, 50))


def test_its_success_lets_all_go_on() -> None:
    them = opened()
    assert them.may_call(MAIL, "c2", 1) == 0
    them.succeeded(MAIL, "c2", 1.2)
    assert all(them.may_call(MAIL, f"c{number}", 1.2) == 0 for number in range(50))
    assert them.snapshot(1.2) == []


def test_its_failure_doubles_the_pause_up_to_a_minute() -> None:
    them = opened()
    now, pauses = 0.0, []
    for _ in range(9):
        wait = them.may_call(MAIL, "c1", now)
        pauses.append(wait)
        now += wait
        assert them.may_call(MAIL, "c1", now) == 0
        assert them.failed(MAIL, "c1", now) is False
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60], abs=0.1)


def test_pauses_have_jitter() -> None:
    them = Breakers(lambda: 1.0)
    fail(them, range(5))
    assert them.may_call(MAIL, "c1", 0) == 1.5


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    them = breakers()
    for number in range(5):
        them.failed(MAIL, f"c{number}", 0, after=20)
    assert them.may_call(MAIL, "c1", 0) == 20
    assert them.may_call(MAIL, "c1", 20) == 0


def test_calls_under_way_when_it_opened_neither_count_nor_change_anything() -> None:
    them = opened()
    assert fail(them, range(100, 200), 0.5) == [False] * 100
    them.succeeded(MAIL, "c200", 0.5)
    assert them.may_call(MAIL, "c1", 0.5) == 0.5
    assert them.may_call(MAIL, "c1", 1.0) == 0
    assert fail(them, [300], 1.0) == [False]
    them.succeeded(MAIL, "c301", 1.0)
    assert states(them, 1.0) == {"mailer on CartAbandoned": State.HALF_OPEN}


def test_what_says_nothing_of_the_endpoint_leaves_the_turn_to_the_next() -> None:
    them = opened()
    assert them.may_call(MAIL, "c1", 1) == 0
    them.gave_up(MAIL, "c7", 1.1)
    assert them.may_call(MAIL, "c2", 1.1) > 0
    them.gave_up(MAIL, "c1", 1.1)
    assert them.may_call(MAIL, "c2", 1.1) == 0
    assert them.may_call(MAIL, "c3", 1.1) > 0


def test_a_call_that_never_tells_is_not_waited_for() -> None:
    them = opened()
    assert them.may_call(MAIL, "c1", 1) == 0
    assert them.may_call(MAIL, "c2", PROBE + 0.9) > 0
    assert them.may_call(MAIL, "c2", PROBE + 1) == 0
    them.succeeded(MAIL, "c1", PROBE + 1)
    assert them.may_call(MAIL, "c3", PROBE + 1) > 0
    them.succeeded(MAIL, "c2", PROBE + 1)
    assert them.may_call(MAIL, "c3", PROBE + 1) == 0


def test_pauses_go_on_growing_where_it_opens_again_at_once() -> None:
    them = opened()
    now = 0.0
    for pause in (1, 2, 4):
        assert them.may_call(MAIL, "c1", now) == pytest.approx(pause)
        now += pause
        assert them.may_call(MAIL, "c1", now) == 0
        them.succeeded(MAIL, "c1", now)
        fail(them, range(5), now)
    now += 8
    assert them.may_call(MAIL, "c1", now) == 0
    them.succeeded(MAIL, "c1", now)
    fail(them, range(5), now + WINDOW + 1)
    assert them.may_call(MAIL, "c1", now + WINDOW + 1) == 1


def test_the_turns_of_callers_who_are_gone_hold_nobody_for_long() -> None:
    them = opened()
    for number in range(100_000):
        them.may_call(MAIL, f"c{number}", 0)
    assert them.may_call(MAIL, "last", 0) <= 61
    assert them.may_call(MAIL, "last", 61) == 0


@given(st.integers(1, 60), st.floats(0, 0.9), st.floats(0.01, 40))
def test_held_customers_all_get_their_turn(held: int, chance: float, down: float) -> None:
    """A worker with that many customers, and an endpoint that is down for so many seconds."""
    them = Breakers(lambda: chance)
    fail(them, range(5))
    agenda = sorted((them.may_call(MAIL, f"c{number}", 0.0), number) for number in range(held))
    done: list[float] = []
    for _ in range(20_000):
        if not agenda:
            break
        now, number = agenda.pop(0)
        wait = them.may_call(MAIL, f"c{number}", now)
        if wait:
            agenda.append((now + wait, number))
        elif now < down:
            assert not them.failed(MAIL, f"c{number}", now)
            agenda.append((now + 0.2, number))
        else:
            them.succeeded(MAIL, f"c{number}", now)
            done.append(now)
        agenda.sort()
    assert len(done) == held
    # The pause that was running, and one second for those who met the first call.
    assert done[-1] <= max(2 * down * (1 + chance / 2), 2) + 2 + held * SPACING


# Hosts


def test_a_host_that_is_down_holds_every_handler_that_failed_on_it() -> None:
    them = breakers()
    fail(them, [1, 2], hosts=["mail.test"])
    fail(them, [3, 4], handler=OTHER, hosts=["mail.test"])
    fail(them, [5], handler=SMS, hosts=["mail.test"])
    assert states(them)["mail.test"] is State.OPEN
    for handler in (MAIL, OTHER, SMS):
        assert them.may_call(handler, "c9", 0) > 0
    unrelated = Handler("banner", "CartAbandoned")
    assert them.may_call(unrelated, "c9", 0) == 0
    fail(them, [6], handler=unrelated, hosts=["mail.test"])
    assert them.may_call(unrelated, "c9", 0) > 0


def test_the_success_of_one_handler_closes_the_host_for_all() -> None:
    them = opened(hosts=["mail.test"])
    fail(them, [9], handler=SMS, hosts=["mail.test"])
    assert states(them) == {"mailer on CartAbandoned": State.OPEN, "mail.test": State.OPEN}
    assert them.may_call(SMS, "c9", 1) == 0
    them.succeeded(SMS, "c9", 1)
    assert them.may_call(SMS, "c8", 1) == 0
    assert states(them, 1) == {"mailer on CartAbandoned": State.HALF_OPEN}
    assert them.may_call(MAIL, "c1", 1) == 0
    them.succeeded(MAIL, "c1", 1)
    assert them.snapshot(1) == []


def test_a_handler_waits_for_the_longer_of_its_pauses_and_takes_no_turn_meanwhile() -> None:
    them = opened(hosts=["mail.test"])
    fail(them, [9], handler=SMS, hosts=["mail.test"])
    assert them.may_call(SMS, "c9", 1) == 0
    them.failed(SMS, "c9", 1)
    # The handler's own second is over, the host's next two are not.
    assert them.may_call(MAIL, "c1", 1.5) == 1.5
    assert them.may_call(MAIL, "c1", 3.0) == 0


def test_handlings_that_need_no_host_do_not_tell_of_it() -> None:
    them = breakers()
    for number in range(5):
        fail(them, [number], hosts=["mail.test"])
        them.succeeded(MAIL, "elsewhere", 0)
    assert states(them) == {"mail.test": State.OPEN}


def test_a_customer_who_gets_through_to_the_host_ends_its_row() -> None:
    them = breakers()
    fail(them, range(4), hosts=["mail.test"])
    them.succeeded(MAIL, "c2", 0)
    fail(them, [7], hosts=["mail.test"])
    assert them.may_call(MAIL, "c9", 0) == 0


# Bounds and what is told


def test_what_is_remembered_is_bounded() -> None:
    them = breakers()
    for number in range(BREAKERS + 500):
        handler = Handler(f"w{number}", "E")
        for host in range(HOSTS + 3):
            them.failed(handler, "c", 0, hosts=[f"h{host}.test"])
    assert len(them._breakers) <= BREAKERS
    assert len(them._hosts) <= BREAKERS
    assert all(len(hosts) == HOSTS for hosts in them._hosts.values())
    assert all(len(breaker.row) <= 5 for breaker in them._breakers.values())


def test_an_open_breaker_is_not_forgotten_for_ones_that_are_closed() -> None:
    them = opened()
    for number in range(BREAKERS + 500):
        them.failed(Handler(f"w{number}", "E"), "c", 0)
    assert them.may_call(MAIL, "c1", 0) > 0


def test_success_leaves_nothing_behind() -> None:
    them = breakers()
    fail(them, range(4))
    them.succeeded(MAIL, "c1", 0)
    assert them._breakers == {}


def test_opening_and_closing_are_told_once_each() -> None:
    with capture_logs() as logs:
        them = opened()
        fail(them, range(10, 500), 0.5)
        for number in range(1_000):
            them.may_call(MAIL, f"c{number}", 0.5)
        now = them.may_call(MAIL, "c1", 1.0)
        assert now == 0
        fail(them, [1], 1.0)
        assert them.may_call(MAIL, "c1", 20.0) == 0
        them.succeeded(MAIL, "c1", 20.0)
    assert [(entry["event"], entry["subject"], entry["seconds"]) for entry in logs] == [
        ("circuit breaker opens: calls wait", "mailer on CartAbandoned", 1.0),
        ("circuit breaker closes: calls go on", "mailer on CartAbandoned", 20.0),
    ]
    assert logs[-1]["refused"] == 1_000


def test_a_snapshot_says_how_each_stands() -> None:
    them = opened()
    fail(them, [1], handler=SMS, hosts=["sms.test"])
    them.may_call(MAIL, "c1", 0.5)
    assert [tuple(one) for one in them.snapshot(0.5)] == [
        (MAIL, None, State.OPEN, 0.5, 5, 1),
        (SMS, None, State.CLOSED, 0.0, 1, 0),
        (None, "sms.test", State.CLOSED, 0.0, 1, 0),
    ]
