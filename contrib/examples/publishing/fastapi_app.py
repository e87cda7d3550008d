"""A FastAPI application that publishes; its request body is the event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from busworker import Bus, PublishFailed, Topic

log = logging.getLogger("uvicorn.error")


class UserRegistered(BaseModel):
    """Somebody has signed up."""

    email: str


class PageSeen(BaseModel):
    """Somebody has looked at a page."""

    page: str


user_registered = Topic("user.registered", UserRegistered)
page_seen = Topic("page.seen", PageSeen)
bus = Bus("signup", publish_deadline=4)  # opens nothing yet: each process does at its first publish


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Sends the last messages when the server stops: uvicorn ends by a signal, which skips `atexit`."""
    yield
    await asyncio.to_thread(bus.close)


app = FastAPI(lifespan=lifespan)


@app.post("/users", status_code=201)
async def register(event: UserRegistered) -> dict[str, str]:
    """A registration counts only once it is stored."""
    receipt = bus.publish(user_registered, event)
    try:
        await receipt
    except PublishFailed as error:
        log.error("registration %s: %s", receipt.id, error)
        raise HTTPException(503, "try again later") from error
    return {"message": receipt.id}


@app.get("/pages/{page}")
async def show(page: str) -> dict[str, str]:
    """The page is worth more than the count of its visitors: nobody waits for that."""
    bus.publish(page_seen, PageSeen(page=page))
    return {"page": page}
