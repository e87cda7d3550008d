"""RabbitMQ stops, dies or freezes under a service and its publishers: nothing confirmed is lost, and all goes on alone.

BROKER_MESSAGES, BROKER_KILLS and BROKER_CUTS make the drain longer; BROKER_FROZEN is how long it is frozen, in seconds.
"""

import os
import random
import signal
import time

import pytest

from tests.support import Home, Service, Stage, wait_until
from tests.support.chaos.breaking import FRESH
from tests.support.orders import SHOP, TILLS, WORKERS, Till, published, settled, wait_handled
from tests.support.proxy import Proxy
from tests.support.rabbitmq import Node
from tests.support.transports import on

MESSAGES = int(os.environ.get("BROKER_MESSAGES", "1000"))
KILLS = int(os.environ.get("BROKER_KILLS", "1"))
CUTS = int(os.environ.get("BROKER_CUTS", "5"))
FROZEN = float(os.environ.get("BROKER_FROZEN", "4.5"))
BACK = 10.0
"""Seconds after which a broker that is back has its service back, at the latest: our pauses grow to 5 s."""
PATIENCE = 60.0 + MESSAGES / 20


def shop(stage: Stage) -> tuple[Service, set[int]]:
    """A running shop, and its processes."""
    stage.home.write("shop.py", SHOP)
    service = stage.start("shop")
    return service, {member.pid for member in service.tree()}


def pids(service: Service) -> set[int]:
    return {member.pid for member in service.tree()}


def restart(victim: Node, number: signal.Signals) -> None:
    """Ends the broker in that way, and brings it back: it is away for its boot, some 5 s."""
    victim.stop() if number is signal.SIGTERM else victim.kill()
    victim.start()


@on("victim")
@pytest.mark.timeout(180)
def test_a_broker_that_was_stopped_has_its_service_back_soon_and_nothing_is_repeated(
    stage: Stage, victim: Node, home: Home
) -> None:
    service, processes = shop(stage)
    confirmed = published(stage, MESSAGES // 2)
    with Till(home, TILLS, 300) as till:
        wait_handled(stage, 100)
        till.wait_confirmed(20)
        restart(victim, signal.SIGTERM)
        wait_handled(stage, 1, BACK)
        till.wait_published()
        account = settled(stage, confirmed | till.confirmed, PATIENCE)
    assert {one.state for one in till.told} == {"confirmed"}
    assert (account.lost, account.charged, account.dead) == (set(), set(), 0)
    assert account.again == set()
    assert pids(service) == processes
    assert service.terminate() == 0


@on("victim", "victim-classic")
@pytest.mark.timeout(180 + MESSAGES / 20)
def test_a_broker_that_is_killed_loses_nothing_that_was_confirmed(
    stage: Stage, victim: Node, home: Home, broker: str
) -> None:
    service, processes = shop(stage)
    time.sleep(FRESH)
    confirmed = published(stage, MESSAGES)
    with Till(home, TILLS, 300) as till:
        for _ in range(KILLS):
            wait_handled(stage, MESSAGES // (KILLS + 2))
            restart(victim, signal.SIGKILL)
            wait_handled(stage, 1, BACK)
        till.wait_published()
        account = settled(stage, confirmed | till.confirmed, PATIENCE)
    assert (account.lost, account.charged, account.dead) == (set(), set(), 0)
    if "classic" not in broker:  # whose broker may forget acknowledgements, and that it had delivered
        assert len(account.again) <= WORKERS * KILLS, account.again
    assert pids(service) == processes
    assert service.terminate() == 0


@on("proxied")
@pytest.mark.timeout(120 + MESSAGES / 20)
def test_what_executes_or_is_settled_while_only_connections_are_cut_runs_once(
    stage: Stage, proxy: Proxy, home: Home
) -> None:
    service, processes = shop(stage)
    chance = random.Random(7)
    confirmed = published(stage, MESSAGES)
    with Till(home, TILLS, 300) as till:
        for cut in range(CUTS):
            wait_handled(stage, chance.randrange(20, MESSAGES // (CUTS + 1)))
            assert proxy.cut(reset=cut % 2 == 0) >= 2
            wait_handled(stage, 1, BACK)
        till.wait_published()
        account = settled(stage, confirmed | till.confirmed, PATIENCE)
    assert {one.state for one in till.told} == {"confirmed"}
    assert account == (set(), set(), set(), 0)
    assert pids(service) == processes
    assert service.terminate() == 0


@on("victim")
@pytest.mark.timeout(180 + FROZEN)
def test_a_frozen_broker_ends_receipts_at_their_deadline_and_all_goes_on(
    stage: Stage, victim: Node, home: Home
) -> None:
    service, processes = shop(stage)
    confirmed = published(stage, MESSAGES)
    deadline = FROZEN / 3
    with Till(home, TILLS, 1000, deadline=deadline) as till:
        wait_handled(stage, 100)
        till.wait_confirmed(20)
        victim.pause()
        time.sleep(FROZEN)
        victim.resume()
        wait_handled(stage, 1, 30)
        till.wait_confirmed(20)
        told = till.wait_published()
        account = settled(stage, confirmed | till.confirmed, PATIENCE)
    assert {one.state for one in told} > {"confirmed"}, "none ended while it was frozen"
    assert max(one.seconds for one in told) < deadline + 1
    assert (account.lost, account.charged, account.again, account.dead) == (set(), set(), set(), 0)
    assert pids(service) == processes
    assert service.terminate() == 0


@on("proxied")
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_connection_of_which_one_half_is_closed_is_made_anew(stage: Stage, proxy: Proxy, direction: str) -> None:
    service, processes = shop(stage)
    confirmed = published(stage, 300)
    wait_handled(stage, 50)
    assert proxy.half_close("up" if direction == "up" else "down") >= 1
    account = settled(stage, confirmed)
    assert account == (set(), set(), set(), 0)
    assert pids(service) == processes
    assert service.terminate() == 0


@on("proxied")
def test_a_broker_that_refuses_for_a_while_is_asked_again(stage: Stage, proxy: Proxy, home: Home) -> None:
    service, processes = shop(stage)
    with Till(home, TILLS, 200, deadline=30) as till:
        wait_handled(stage, 20)
        proxy.refuse()
        proxy.cut()
        service.wait_log("trying again")
        wait_until(lambda: stage.status("shop").get("state") != "running", 10, "the state")
        proxy.take()
        wait_handled(stage, 1, BACK)
        till.wait_published()
        account = settled(stage, till.confirmed)
    assert {one.state for one in till.told} == {"confirmed"}
    assert account == (set(), set(), set(), 0)
    assert pids(service) == processes
    assert service.terminate() == 0


@on("proxied")
def test_a_slow_network_costs_time_and_nothing_else(stage: Stage, proxy: Proxy, home: Home) -> None:
    service, _ = shop(stage)
    proxy.delay(up=0.05, down=0.05)
    with Till(home, TILLS, 100) as till:
        told = till.wait_published()
        wait_until(lambda: len(stage.record("end")) == 100, 30, "all handled")
        proxy.delay()
        account = settled(stage, till.confirmed)
    assert {one.state for one in told} == {"confirmed"}
    assert account == (set(), set(), set(), 0)
    assert service.terminate() == 0
