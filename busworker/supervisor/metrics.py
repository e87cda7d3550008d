"""What the supervisor tells for metrics: `status`, and what only it has counted."""

from __future__ import annotations

from collections.abc import Mapping

from busworker.ipc.frames import CountsTold
from busworker.supervisor import status
from busworker.supervisor.health import is_ready
from busworker.supervisor.orders import Orders
from busworker.supervisor.state import Pool, Service
from busworker.supervisor.status import Document


def report(orders: Orders, service: Service, started_at: float, told: Mapping[str, CountsTold]) -> Document:
    """The status with what `metrics` needs beside it, by channel; see `busworker.http.metrics`."""
    return {
        "status": status.report(orders, service, started_at, told),
        "started_at": started_at,
        "ready": is_ready(service),
        "pools": {name: _pool(pool, told.get(name)) for name, pool in service.pools.items()},
    }


def _pool(pool: Pool, told: CountsTold | None) -> Document:
    return {
        "consumer_up": pool.consumer is not None and pool.consumer.ready,
        "paused": pool.paused,
        "counts_known": told is not None and None not in (told.ready, told.dead),
        "oldest": None if told is None else told.oldest,
        "starts": pool.starts,
        "deaths": [[process, cause, number] for (process, cause), number in pool.deaths.items()],
    }
