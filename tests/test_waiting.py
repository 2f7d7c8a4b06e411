"""Work that an event loop does itself: what comes of it, what it waits for, and what it knows of the work before."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from flask import current_app
from greenlet import getcurrent
from support import Service

from backend.aside import aside, let_give_way
from backend.waiting import Greenlets, wait

WHO = contextvars.ContextVar("WHO", default="nobody")


def run(main: Callable[[Greenlets], Coroutine[object, object, object]]) -> object:
    return asyncio.run(main(Greenlets()))


def test_what_comes_of_work_is_returned_or_raised_and_the_next_work_is_done_all_the_same() -> None:
    def fail() -> object:
        raise LookupError("this work")

    async def main(greenlets: Greenlets) -> list[object]:
        found: list[object] = []
        for work in (lambda: 1, fail, lambda: None, lambda: 2):
            try:
                found.append(await greenlets.do(work))
            except LookupError as error:
                found.append(str(error))
        return found

    assert run(main) == [1, "this work", None, 2]


def test_while_one_waits_the_loop_does_other_work_each_in_a_greenlet_that_is_kept() -> None:
    async def main(greenlets: Greenlets) -> tuple[list[object], int]:
        futures = [Future[int]() for _ in range(3)]
        seen: list[object] = []

        def work(number: int) -> tuple[int, object]:
            seen.append(number)
            return wait(futures[number]), getcurrent()

        tasks = [asyncio.create_task(greenlets.do(lambda number=number: work(number))) for number in range(3)]
        await asyncio.sleep(0)
        assert seen == [0, 1, 2]
        for number in (2, 0, 1):
            futures[number].set_result(10 * number)
        at_once = await asyncio.gather(*tasks)
        after = [await greenlets.do(getcurrent) for _ in range(5)]
        kept = {id(doing) for _, doing in at_once}
        assert {id(doing) for doing in after} < kept
        return [result for result, _ in at_once], len(kept)

    assert run(main) == ([0, 10, 20], 3)


def test_who_is_cancelled_hears_it_where_he_waits_and_leaves_the_greenlet_to_others() -> None:
    async def main(greenlets: Greenlets) -> list[object]:
        heard: list[object] = []

        def work() -> None:
            try:
                wait(Future[None]())
            except asyncio.CancelledError:
                heard.append("cancelled")
                raise

        task = asyncio.create_task(greenlets.do(work))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [*heard, await greenlets.do(lambda: "served")]

    assert run(main) == ["cancelled", "served"]


def test_what_waits_too_long_is_told_so() -> None:
    async def main(greenlets: Greenlets) -> object:
        def work() -> str:
            with pytest.raises(TimeoutError):
                wait(Future[None](), 0.01)
            return "told"

        return await greenlets.do(work)

    assert run(main) == "told"


def test_each_work_knows_what_its_own_task_knows_and_nothing_of_the_work_before() -> None:
    async def main(greenlets: Greenlets) -> list[str]:
        with ThreadPoolExecutor(1) as pool:

            def work() -> tuple[str, str]:
                before = WHO.get()
                WHO.set(f"{before}, seen")
                wait(pool.submit(lambda: None))
                return before, WHO.get()

            async def ask(name: str) -> tuple[str, str]:
                WHO.set(name)
                return await greenlets.do(work)

            found = await asyncio.gather(*(asyncio.create_task(ask(name)) for name in ("ada", "eve")))
            found += [await asyncio.create_task(greenlets.do(work)) for _ in range(2)]
            return [said for each in found for said in each]

    assert run(main) == ["ada", "ada, seen", "eve", "eve, seen", "nobody", "nobody, seen", "nobody", "nobody, seen"]


def test_what_is_done_aside_is_returned_or_raised_each_time_in_the_same_thread_with_the_callers_context(
    service: Service,
) -> None:
    def fail() -> None:
        raise LookupError("this work")

    def look() -> tuple[str, str, str]:
        return current_app.name, WHO.get(), threading.current_thread().name

    with service.app.app_context():
        assert aside(look)[2] == threading.current_thread().name
        let_give_way(service.app)
        token = WHO.set("ada")
        with pytest.raises(LookupError, match="this work"):
            aside(fail)
        assert {aside(look) for _ in range(3)} == {(service.app.name, "ada", "aside")}
        WHO.reset(token)
        assert aside(look)[1] == "nobody"
