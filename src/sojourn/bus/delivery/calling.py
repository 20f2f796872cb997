"""One call of a handler: bounded in time, ended when its key is dropped, and held to its contract."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sojourn.bus.delivery.member import Member
from sojourn.bus.delivery.turn import LaneInterrupted, LaneTurn
from sojourn.bus.errors import HandlerError, TimedOutError, TransientError
from sojourn.bus.processor import Output, Recorded

if TYPE_CHECKING:
    from sojourn.bus.delivery.keyqueue import KeyQueue


async def call_handler(queue: KeyQueue, member: Member, recorded: Recorded, attempt: int) -> Output:
    """What the processor does about a cause. Raises what its handler raises, and `LaneInterrupted` where the handling
    ends because the key was dropped meanwhile."""
    group = queue.partition.group
    processor = member.processor
    turn = LaneTurn(
        recorded,
        group.clock.handling(recorded.envelope.time),
        attempt,
        queue.at,
        member.lane,
        member.writer,
        group.committer,
        lambda: not queue.partition.discarded(queue),
        queue.customer,
    )
    seconds = processor.timeout.total_seconds()
    runners = group.runners
    call = queue.calling = runners.enter(f"{processor.writer} on {recorded.envelope.type}", seconds)
    try:
        result = member.resident.run(turn)
        output = result if isinstance(result, Output) else await result
    except asyncio.CancelledError as error:
        if runners.closed:
            raise
        if queue.partition.discarded(queue):
            raise LaneInterrupted from error
        if call.timed_out:
            raise TimedOutError(f"{call.label} was still running after {seconds:g} s") from None
        raise TransientError(f"something that {call.label} waited for was cancelled") from error
    except (Exception, LaneInterrupted, KeyboardInterrupt):
        raise
    except BaseException as error:
        # From a task group of the handler, perhaps.
        if isinstance(error, BaseExceptionGroup) and error.subgroup(LaneInterrupted) is not None:
            raise LaneInterrupted from error
        raise HandlerError(f"{call.label} raised {error!r}, which would end the worker") from error
    finally:
        queue.calling = None
        runners.leave(call)
        # The task goes on with other handlers: what was to cancel this one must not reach them.
        while call.task.cancelling() and not runners.closed:
            call.task.uncancel()
    if not isinstance(output, Output):
        raise HandlerError(f"{call.label} returned {type(output).__name__} instead of an Output")
    return output
