import asyncio
import threading
import time

import pytest

from tokenrec_jax.serving.batcher import Batcher, Closed, Full, Limits


class Work:
    """Remembers its batches; doubles numbers, and blocks until `go` is set."""

    def __init__(self):
        self.batches = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, key, requests):
        self.batches.append((key, list(requests)))
        self.go.wait()
        if "few" in requests:
            return []
        if "all" in requests:
            raise ValueError("all")
        return [ValueError("one") if request == "one" else request * 2 for request in requests]


def run(scenario, **limits):
    work = Work()

    async def main():
        batcher = Batcher(work, limits=Limits(**limits), name="test")
        batcher.start()
        try:
            await scenario(batcher, work)
        finally:
            work.go.set()
            await batcher.close()

    asyncio.run(main())
    return work.batches


def test_what_arrives_together_is_one_batch_with_results_in_place():
    async def scenario(batcher, _):
        assert await asyncio.gather(*(batcher.submit("a", n) for n in range(5))) == [0, 2, 4, 6, 8]

    assert run(scenario) == [("a", [0, 1, 2, 3, 4])]


def test_keys_are_not_mixed_and_the_oldest_goes_first():
    async def scenario(batcher, _):
        await asyncio.gather(*(batcher.submit(key, key) for key in "abab"))

    assert run(scenario) == [("a", ["a", "a"]), ("b", ["b", "b"])]


def test_a_full_batch_does_not_wait():
    async def scenario(batcher, _):
        started = time.monotonic()
        await asyncio.gather(*(batcher.submit("a", n) for n in range(4)))
        assert time.monotonic() - started < 5

    assert run(scenario, batch=2, wait=10.0) == [("a", [0, 1]), ("a", [2, 3])]


def test_a_lonely_request_waits_no_longer_than_the_budget():
    async def scenario(batcher, _):
        started = time.monotonic()
        await batcher.submit("a", 1)
        assert 0.05 <= time.monotonic() - started < 5

    run(scenario, wait=0.05)


def test_requests_gather_while_others_are_worked_on():
    async def scenario(batcher, work):
        work.go.clear()
        first = asyncio.create_task(batcher.submit("a", 1))
        while not work.batches:
            await asyncio.sleep(0.001)
        rest = [asyncio.create_task(batcher.submit("a", n)) for n in (2, 3)]
        await asyncio.sleep(0.01)
        work.go.set()
        assert await asyncio.gather(first, *rest) == [2, 4, 6]

    assert run(scenario, wait=0.0) == [("a", [1]), ("a", [2, 3])]


def test_refuses_what_is_too_much_and_takes_more_afterwards():
    async def scenario(batcher, work):
        work.go.clear()
        taken = [asyncio.create_task(batcher.submit("a", 0))]
        while not work.batches:
            await asyncio.sleep(0.001)
        taken += [asyncio.create_task(batcher.submit("a", n)) for n in (1, 2)]
        await asyncio.sleep(0)
        assert batcher.pending == 2
        with pytest.raises(Full):
            await batcher.submit("a", 9)
        work.go.set()
        assert await asyncio.gather(*taken) == [0, 2, 4]
        assert await batcher.submit("a", 9) == 18

    run(scenario, batch=1, wait=0.0, pending=2)


def test_an_error_is_for_whom_it_is_about():
    async def scenario(batcher, _):
        one, two = await asyncio.gather(batcher.submit("a", "one"), batcher.submit("a", 2), return_exceptions=True)
        assert str(one) == "one" and two == 4
        found = await asyncio.gather(batcher.submit("a", "all"), batcher.submit("a", 2), return_exceptions=True)
        assert [str(error) for error in found] == ["all", "all"]
        with pytest.raises(RuntimeError, match="0 results of 1 requests"):
            await batcher.submit("a", "few")
        assert await batcher.submit("a", 3) == 6

    run(scenario)


def test_who_gave_up_is_not_served():
    async def scenario(batcher, work):
        work.go.clear()
        first = asyncio.create_task(batcher.submit("a", 1))
        await asyncio.sleep(0.01)
        second, third = (asyncio.create_task(batcher.submit("a", n)) for n in (2, 3))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        work.go.set()
        assert await asyncio.gather(first, third) == [2, 6]

    assert run(scenario, wait=0.0) == [("a", [1]), ("a", [3])]


def test_close_answers_what_was_taken_and_takes_no_more():
    async def scenario(batcher, _):
        taken = [asyncio.create_task(batcher.submit("a", n)) for n in range(3)]
        await asyncio.sleep(0)
        await batcher.close()
        assert await asyncio.gather(*taken) == [0, 2, 4]
        with pytest.raises(Closed):
            await batcher.submit("a", 1)

    run(scenario, batch=2, wait=60.0)
