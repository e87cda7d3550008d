"""A service whose events are pydantic models: what its handler gets, and what never reaches it."""

import json

from tests.support import Command, Home

APP = """
from pydantic import BaseModel, Field
from busworker import Bus, Topic

class Address(BaseModel):
    street: str

class Moved(BaseModel):
    user_id: int = Field(alias="userId")
    to: Address | None = None

moved = Topic("user.moved", Moved)
bus = Bus("post")

@bus.channel("letters").subscribe(moved)
def send(event: Moved) -> None:
    print("handled", repr(event))
    if event.to is None:
        bus.publish(moved, event.model_copy(update={"to": Address(street="Side")}))
"""


def test_a_handler_gets_and_publishes_models_and_what_is_none_is_a_dead_letter(command: Command, home: Home) -> None:
    home.write("app.py", APP)
    service = command.start("start", "app")
    service.wait_log("consumer post.letters ready")
    assert command.run("publish", "user.moved", '{"userId": 7}', "--app", "app").returncode == 0
    service.wait_log("handled Moved(user_id=7, to=None)")
    service.wait_log("handled Moved(user_id=7, to=Address(street='Side'))")
    done = command.run("publish", "user.moved", '{"userId": "x"}', "--app", "app")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (65, "", 1)
    assert "userId: Input should be a valid integer" in done.stderr
    command.run("publish", "user.moved", '{"userId": 8, "to": {}}')
    service.wait_log("to.street: Field required")
    (letter,) = json.loads(command.run("dead", "list", "post", "--json").stdout)
    assert (letter["reason"], letter["attempts"], letter["error"]["type"]) == ("invalid", 0, "DecodeError")
    assert letter["error"]["message"] == "the body doesn't fit its topic: to.street: Field required"
    assert service.terminate() == 0
