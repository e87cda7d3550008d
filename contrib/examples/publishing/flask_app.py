"""A Flask application that publishes: once with a word from the broker, once without."""

from __future__ import annotations

from events import PageSeen, UserRegistered, page_seen, user_registered
from flask import Flask, request

from busworker import Bus, PublishFailed

app = Flask(__name__)
bus = Bus("signup", publish_deadline=4)  # opens nothing yet: each process does at its first publish


@app.post("/users")
def register() -> tuple[dict[str, str], int]:
    """A registration counts only once it is stored."""
    receipt = bus.publish(user_registered, UserRegistered(request.form["email"]))
    try:
        receipt.wait()
    except PublishFailed as error:
        app.logger.error("registration %s: %s", receipt.id, error)
        return {"error": "try again later"}, 503
    return {"message": receipt.id}, 201


@app.get("/pages/<page>")
def show(page: str) -> str:
    """The page is worth more than the count of its visitors: nobody waits for that."""
    bus.publish(page_seen, PageSeen(page))
    return f"<h1>{page}</h1>"
