"""A cluster of three RabbitMQ nodes, one of which dies: the service and its publishers go on at another."""

import pytest

from tests.support import Home, Stage
from tests.support.cluster import Cluster
from tests.support.orders import SHOP, TILLS, WORKERS, Till, published, settled, wait_handled
from tests.support.transports import on

FAILOVER = 20.0
"""Seconds for another node to be tried, and for the queues to have another leader."""


@on("cluster")
@pytest.mark.timeout(240)
def test_the_death_of_the_node_it_is_connected_to_costs_a_service_nothing(
    stage: Stage, cluster: Cluster, home: Home
) -> None:
    stage.home.write("shop.py", SHOP)
    service = stage.start("shop")
    processes = {member.pid for member in service.tree()}
    confirmed = published(stage, 600)
    with Till(home, TILLS, 400) as till:
        wait_handled(stage, 100)
        till.wait_confirmed(20)
        cluster.nodes[0].kill()  # the first of the URL, so the one that all are connected to
        wait_handled(stage, 1, FAILOVER)
        till.wait_confirmed(20)
        till.wait_published()
        account = settled(stage, confirmed | till.confirmed)
    assert {one.state for one in till.told} == {"confirmed"}
    assert (account.lost, account.charged, account.dead) == (set(), set(), 0)
    assert len(account.again) <= WORKERS, account.again
    assert {member.pid for member in service.tree()} == processes
    assert service.terminate() == 0
