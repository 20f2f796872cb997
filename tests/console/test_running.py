from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sojourn.console import running
from sojourn.console.failures import Interrupted, OutputClosed
from sojourn.console.running import handling, run_async


async def forever() -> None:
    await asyncio.Event().wait()


@contextmanager
def soon(act: Callable[[], object]) -> Iterator[None]:
    timer = threading.Timer(0.05, act)
    timer.start()
    yield
    timer.join()


def test_the_result_comes_back() -> None:
    async def seven() -> int:
        await asyncio.sleep(0)
        return 7

    assert run_async(seven()) == 7


def test_errors_come_through() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_async(fail())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_and_is_told(number: signal.Signals) -> None:
    wound_up = []

    async def main() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            wound_up.append(True)

    before = signal.getsignal(number)
    with soon(lambda: os.kill(os.getpid(), number)), pytest.raises(Interrupted) as caught:
        run_async(main())
    assert (caught.value.number, wound_up) == (number, [True])
    assert signal.getsignal(number) is before


def test_an_error_on_the_way_out_does_not_hide_the_interrupt() -> None:
    async def main() -> None:
        try:
            await forever()
        finally:
            raise ZeroDivisionError

    with soon(lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(Interrupted):
        run_async(main())


def test_a_cancellation_that_gets_lost_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_PATIENCE", 0.05)
    lost = []

    async def main() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            lost.append(True)
        await forever()

    with soon(lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(Interrupted):
        run_async(main())
    assert lost == [True]


def test_a_signal_reaches_even_a_blocked_loop() -> None:
    seen: list[int] = []
    with soon(lambda: os.kill(os.getpid(), signal.SIGTERM)), handling(seen.append):

        async def block() -> None:
            while not seen:
                pass

        asyncio.run(block())
    assert seen == [signal.SIGTERM]


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Left(BaseException):
        pass

    def leave(status: int) -> None:
        raise Left(status)

    monkeypatch.setattr(running, "leave", leave)
    with handling(lambda number: None):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Left, match="143"):
            signal.raise_signal(signal.SIGTERM)


def test_a_reader_that_leaves_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with open(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with soon(lambda: os.close(read)), pytest.raises(OutputClosed):
            run_async(forever())


def test_without_standard_output_there_is_nobody_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)

    async def main() -> bool:
        await asyncio.sleep(0)
        return True

    assert run_async(main())
