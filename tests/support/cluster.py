"""A cluster of RabbitMQ nodes on this machine: one cookie, one epmd, a member for each folder."""

from collections.abc import Iterator
from pathlib import Path

from tests.support.rabbitmq import Epmd, Node
from tests.support.waiting import wait_until

JOIN = 60.0
"""Seconds until the members know each other."""


class Cluster:
    """Nodes that find each other when they start; quorum queues have a replica on each.

    Args:
        folder: where they keep everything.
        size: how many. A quorum queue works while more than half of them run.
    """

    def __init__(self, folder: Path, size: int = 3) -> None:
        self._epmd = Epmd()
        self.nodes = [Node(folder / f"node{number}", epmd=self._epmd, cookie=folder) for number in range(size)]
        for node in self.nodes:
            node.configure(*self._formation())

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @property
    def url(self) -> str:
        """All of them, to be tried in turn."""
        return ";".join(node.url() for node in self.nodes)

    def start(self) -> None:
        """Returns once every member takes connections and all are one cluster."""
        first, *others = self.nodes
        first.start()  # alone: two that start at once may each found a cluster
        for node in others:
            node.launch()
        for node in others:
            node.wait_booted()
        wait_until(lambda: self._members(first) == len(self.nodes), JOIN, lambda: f"one cluster\n{first.log}")

    def close(self) -> None:
        """Nothing of it runs afterwards."""
        for node in self.nodes:
            node.close()
        self._epmd.close()

    def _formation(self) -> list[str]:
        listed = [
            f"cluster_formation.classic_config.nodes.{number} = {node.name}"
            for number, node in enumerate(self.nodes, 1)
        ]
        return [
            "cluster_formation.peer_discovery_backend = classic_config",
            "cluster_formation.randomized_startup_delay_range.min = 0",
            "cluster_formation.randomized_startup_delay_range.max = 0",
            "cluster_partition_handling = pause_minority",
            "queue_master_locator = min-masters",
            *listed,
        ]

    @staticmethod
    def _members(node: Node) -> int:
        return int(node.ctl("eval", "length(rabbit_nodes:all_running())."))
