"""The process that answers HTTP: it asks the supervisor, reads what the pools count, and knows no broker.

Whatever becomes of it concerns nobody else: the supervisor keeps the listening socket and starts it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import cast

from busworker.errors import ControlError
from busworker.http.asking import Shared, ask
from busworker.http.metrics import Page
from busworker.http.server import Request, Response, Server
from busworker.http.spooled import Spooled
from busworker.ipc.control import Refused
from busworker.jobs import HttpJob

PROBES = {"/livez": "live", "/readyz": "ready", "/startupz": "startup"}
PROBE_WITHIN, PROBE_GOOD = 2.0, 0.1
"""Seconds that the supervisor has to answer a probe, most of whose senders wait less; and those its answer is good."""
METRICS_WITHIN, METRICS_GOOD = 2.0, 1.0
"""The same of metrics: then what the supervisor knows is missing from them."""
NOT_FOUND = "there are /metrics, {}\n".format(", ".join(PROBES)).encode()


def main(job: HttpJob) -> int:
    """Answers until it is killed."""
    asyncio.run(Site(job).serve())
    return 0


class Site:
    """What there is to be had."""

    def __init__(self, job: HttpJob) -> None:
        self._job = job
        self._spooled = None if job.spool is None else Spooled(job.spool)
        self._metrics = Shared(self._measured, METRICS_GOOD)
        self._pages: dict[str, Callable[[Request], Awaitable[Response]]] = {"/metrics": self._exposed}
        for path, probe in PROBES.items():
            self._pages[path] = partial(_of_shared, Shared(partial(self._probed, probe), PROBE_GOOD))

    async def serve(self) -> None:
        """Answers for ever."""
        async with asyncio.TaskGroup() as tasks:
            if self._spooled is not None:
                tasks.create_task(self._spooled.keep())
            tasks.create_task(Server(self.respond).serve(self._job.listener))

    async def respond(self, request: Request) -> Response:
        """The page of a path."""
        page = self._pages.get(request.path)
        return Response(HTTPStatus.NOT_FOUND, NOT_FOUND) if page is None else await page(request)

    async def _probed(self, probe: str) -> Response:
        """What `busworker health` says, and whether the service is well."""
        try:
            answer = await ask(self._job.control, "health", {"probe": probe}, PROBE_WITHIN)
        except Refused as error:
            return _line(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except ControlError as error:
            return _line(HTTPStatus.SERVICE_UNAVAILABLE, f"{probe}: {error}")
        text = cast("dict[str, object]", answer).get("text") if isinstance(answer, dict) else None
        return _line(HTTPStatus.OK, f"{probe}: {text}")

    async def _exposed(self, request: Request) -> Response:
        page = await self._metrics.get()
        body, content_type = page.text(request.accept)
        return Response(HTTPStatus.OK, body, content_type)

    async def _measured(self) -> Page:
        try:
            answer = await ask(self._job.control, "metrics", {}, METRICS_WITHIN)
        except ControlError:
            answer = None
        return Page(self._job, answer, None if self._spooled is None else self._spooled.messages)


async def _of_shared(shared: Shared[Response], _request: Request) -> Response:
    return await shared.get()


def _line(status: HTTPStatus, text: str) -> Response:
    return Response(status, " ".join(text.split()).encode("utf-8", "replace") + b"\n")
