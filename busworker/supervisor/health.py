"""What `health` says of a service: from what the supervisor knows, without asking a consumer or the broker. Pure."""

from __future__ import annotations

from typing import Literal, TypeAlias

from busworker.plain import escaped
from busworker.supervisor.state import Pool, Service
from busworker.supervisor.status import pool_state, service_state
from busworker.urls import hide_password

MOST_SUMMARY = 1000
Probe: TypeAlias = Literal["live", "ready", "startup"]


def ailing(service: Service, probe: Probe) -> str | None:
    """Why a service isn't what a probe asks for; None: it is.

    Args:
        service: its state.
        probe: `live`: its supervisor answers, as it does if this is called. `startup`: every channel has been complete
            once: all its workers up, all its subscriptions bound. `ready`: see `is_ready`.
    """
    match probe:
        case "live":
            return None
        case "startup":
            new = [pool for pool in service.pools.values() if not pool.ever_complete]
            return _told("has not started", [f"{pool.name} starts ({_lacks(pool)})" for pool in new])
        case "ready":
            if is_ready(service):
                return None
            found = [text for pool in service.pools.values() if (text := _unready(service, pool))]
            return _told("is not ready", found)


def is_ready(service: Service) -> bool:
    """Whether every channel runs now, or is paused.

    That is somebody's wish, and nobody wishes that an orchestrator takes the service out of use for it.
    """
    return service_state(service) in ("running", "paused")


def summary(service: Service) -> str:
    """A service and its channels in one line, of bounded length."""
    channels = ", ".join(_unready(service, pool) or _running(pool) for pool in service.pools.values())
    return escaped(hide_password(f"{service_state(service)}: {channels}"))[:MOST_SUMMARY]


def _running(pool: Pool) -> str:
    return f"{pool.name} is paused" if pool.paused else f"{pool.name} has {len(pool.up)} of {pool.desired} workers up"


def _told(what: str, channels: list[str]) -> str | None:
    return f"{what}: channel {', channel '.join(channels)}" if channels else None


def _unready(service: Service, pool: Pool) -> str | None:
    state = pool_state(pool, stopping=service.stop is not None)
    if state in ("running", "paused"):
        return None
    return f"{pool.name} is {state}" + ("" if state == "draining" else f" ({_lacks(pool)})")


def _lacks(pool: Pool) -> str:
    """What a pool that isn't complete is without."""
    if pool.consumer is None:
        return "its consumer died" if pool.consumer_backoff.failures else "its consumer isn't up"
    if pool.consumer.trouble:
        return pool.consumer.trouble
    if not pool.consumer.ready:
        return "its subscriptions aren't bound yet"
    return f"{len(pool.up)} of {pool.desired} workers are up"
