"""Receipts: how a publisher learns what became of its message, in threads and in event loops."""

import asyncio
import threading

import pytest

from busworker.errors import BrokerUnavailable, PublishFailed
from busworker.receipt import Receipt, State, conclude


def test_a_new_receipt_is_pending() -> None:
    receipt = Receipt("m1")
    assert (receipt.id, receipt.state, receipt.error) == ("m1", "pending", None)
    assert repr(receipt) == "<Receipt m1 pending>"


def test_a_confirmed_receipt_is_what_waiting_returns() -> None:
    receipt = Receipt("m1")
    conclude([receipt], "confirmed")
    assert receipt.wait() is receipt
    assert receipt.wait(0) is receipt
    assert receipt.state == "confirmed"


@pytest.mark.parametrize("state", ["failed", "unknown"])
def test_waiting_for_a_message_that_is_not_stored_raises_its_cause(state: State) -> None:
    receipt, cause = Receipt("m1"), BrokerUnavailable("no disk")
    conclude([receipt], state, cause)
    for _ in range(2):
        with pytest.raises(PublishFailed, match="no disk") as caught:
            receipt.wait()
        assert caught.value.__cause__ is cause
    assert receipt.error is cause


def test_without_a_cause_the_failure_names_message_and_state() -> None:
    receipt = Receipt("m1")
    conclude([receipt], "unknown")
    with pytest.raises(PublishFailed, match="m1 is unknown"):
        receipt.wait()


def test_waiting_in_vain_is_a_time_out_and_may_be_repeated() -> None:
    receipt = Receipt("m1")
    with pytest.raises(TimeoutError, match="m1"):
        receipt.wait(0)
    assert receipt.state == "pending"
    conclude([receipt], "confirmed")
    assert receipt.wait(0) is receipt


def test_the_first_end_stays() -> None:
    receipt = Receipt("m1")
    conclude([receipt], "confirmed")
    conclude([receipt], "failed", PublishFailed("late"))
    assert (receipt.state, receipt.error) == ("confirmed", None)


def test_a_thread_that_waits_is_woken() -> None:
    receipts = [Receipt(str(number)) for number in range(3)]
    woken: list[Receipt] = []
    threads = [threading.Thread(target=lambda one=one: woken.append(one.wait(60))) for one in receipts]
    for thread in threads:
        thread.start()
    conclude(receipts[:2], "confirmed")
    conclude(receipts[2:], "confirmed")
    for thread in threads:
        thread.join()
    assert {receipt.id for receipt in woken} == {"0", "1", "2"}


async def concluded_by_a_thread(receipt: Receipt, state: State) -> Receipt:
    waiting = asyncio.ensure_future(receipt)
    await asyncio.sleep(0)  # lets it begin
    await asyncio.to_thread(conclude, [receipt], state)
    return await waiting


def test_an_event_loop_that_awaits_is_woken_by_a_thread() -> None:
    receipt = Receipt("m1")
    assert asyncio.run(concluded_by_a_thread(receipt, "confirmed")) is receipt


def test_awaiting_a_failed_message_raises() -> None:
    with pytest.raises(PublishFailed, match="m1 is failed"):
        asyncio.run(concluded_by_a_thread(Receipt("m1"), "failed"))


def test_an_ended_receipt_is_awaited_at_once_and_again() -> None:
    receipt = Receipt("m1")
    conclude([receipt], "confirmed")

    async def twice() -> tuple[Receipt, Receipt]:
        return await receipt, await receipt

    assert asyncio.run(twice()) == (receipt, receipt)


def test_many_tasks_may_await_one_receipt() -> None:
    receipt = Receipt("m1")

    async def waited() -> Receipt:
        return await receipt

    async def together() -> list[Receipt]:
        tasks = [asyncio.ensure_future(waited()) for _ in range(3)]
        await asyncio.sleep(0)
        conclude([receipt], "confirmed")
        return await asyncio.gather(*tasks)

    assert asyncio.run(together()) == [receipt] * 3


def test_a_loop_that_ended_meanwhile_is_no_error() -> None:
    receipt = Receipt("m1")

    async def given_up() -> None:
        waiting = asyncio.ensure_future(receipt)
        await asyncio.sleep(0)
        waiting.cancel()

    asyncio.run(given_up())
    conclude([receipt], "confirmed")
    assert receipt.state == "confirmed"


def test_a_guard_refuses_both_ways_of_waiting() -> None:
    def refuse() -> None:
        raise RuntimeError("inside an attempt")

    receipt = Receipt("m1", refuse)

    async def awaited() -> None:
        await receipt

    with pytest.raises(RuntimeError, match="inside an attempt"):
        receipt.wait(0)
    with pytest.raises(RuntimeError, match="inside an attempt"):
        asyncio.run(awaited())
    assert receipt.state == "pending"
