import asyncio

import pytest

from prefdata.run.room import Room, bytes_of

ROWS, LONG = 40, 1000


async def run_rows(room, rows, slow):
    """Rows of LONG bytes through the room, in order, as `.map` takes them; `slow` is the head."""
    is_free = asyncio.Event()

    async def row(n):
        number = await room.enter()
        if n == slow:
            await is_free.wait()
        room.finish(number, {"text": "x" * LONG})
        return n

    tasks = [asyncio.create_task(row(n)) for n in range(rows)]
    for _ in range(100):
        await asyncio.sleep(0)
    finished = sum(task.done() for task in tasks)
    is_free.set()
    order = []
    for task in tasks:
        order.append(await task)
        room.leave()
    return order, finished


@pytest.mark.parametrize("slow", [0, 3])
def test_rows_that_wait_behind_a_slow_one_hold_the_limit_and_one_row_at_most(slow):
    room = Room(10 * LONG, LONG)
    order, finished = asyncio.run(run_rows(room, ROWS, slow))
    assert order == [*range(ROWS)]
    assert finished <= 10
    assert room.peak <= (10 + 1) * LONG  # the next to come back always has room
    assert room.held == 0


def test_rows_larger_than_the_limit_go_one_by_one():
    room = Room(LONG // 2, LONG)
    order, _ = asyncio.run(run_rows(room, ROWS, 0))
    assert order == [*range(ROWS)]
    assert room.peak == LONG


def test_small_rows_are_not_held_up():
    room = Room(ROWS * LONG * 2, LONG)
    _, finished = asyncio.run(run_rows(room, ROWS, 0))
    assert finished == ROWS - 1


def test_a_guess_that_was_too_low_is_given_up_for_what_rows_really_make():
    room = Room(100 * LONG, 1)
    asyncio.run(run_rows(room, 400, 0))
    assert room.peak <= (100 + 1) * LONG


def test_the_bytes_of_a_value_are_those_of_its_texts():
    assert bytes_of({"a": ["xx", {"b": "yyy"}], "c": 1, "d": None}) == 21
