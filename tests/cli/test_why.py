"""`busworker why`: where one message is."""

import json
from typing import Any

from busworker.broker.session import open_session
from tests.contract.bench import ack, event, fetched
from tests.support import Command, Home, Stage, wait_until
from tests.support.transports import EVERYWHERE

APP = """
from busworker import Bus, Reject, RetryPolicy, Topic
from recording import record, wait_for
bus = Bus("shop")
order = Topic("order.placed", str)

@bus.channel("mail").subscribe(order)
def mail(event):
    record("executes")
    wait_for("go")

@bus.channel("books").subscribe(order, retry=RetryPolicy(max_attempts=2, delays=(600,)))
def books(event):
    raise ValueError("no \\x1b[31m account")

@bus.channel("audit").subscribe(order)
def audit(event):
    raise Reject("never")
"""


def asked(command: Command, *args: str) -> dict[str, Any]:
    done = command.run("why", "m1", "--json", *args)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@EVERYWHERE
def test_a_message_is_found_in_each_of_its_subscriptions(stage: Stage, command: Command) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop")
    command.run("publish", "order.placed", '"a"', "--id", "m1")
    stage.wait_recorded(1)
    seen = 2 if stage.amqp else 3
    answer = wait_until(lambda: len((it := asked(command))["places"]) == seen and it, 20, lambda: f"{asked(command)}")
    places = {one["subscription"]: one for one in answer["places"]}

    mail = places["order.placed/shop.mail"]
    since = mail["worker"].pop("since")
    assert (mail["state"], since is not None) == ("in_flight", True)
    assert mail["worker"].pop("pid") == stage.channels("shop")["mail"]["workers"][0]["pid"]
    assert mail["worker"] == {"service": "shop", "instance": "default", "channel": "mail", "slot": 1}
    audit = places["order.placed/shop.audit"]
    assert (audit["state"], audit["reason"], audit["attempt"]) == ("dead", "rejected", 1)
    assert answer["complete"] == (not stage.amqp)
    if not stage.amqp:
        books = places["order.placed/shop.books"]
        assert (books["state"], books["attempt"], books["until"] > books["published_at"]) == ("waiting", 2, True)
        assert [one["topic"] for one in answer["published"]] == ["order.placed"]

    text = command.run("why", "m1", "order.placed/shop.audit").stdout.splitlines()
    assert text[0].startswith("order.placed/shop.audit: dead since ")
    assert text[1:3] == [f"  busworker dead {verb} --id m1 order.placed/shop.audit" for verb in ("show", "replay")]
    assert [one for one in text if "shop.books" in one] == []
    assert ("can't be looked for on RabbitMQ" in text[-1]) == stage.amqp

    # Dead letters are found in the same way: on RabbitMQ the service says which subscriptions there are.
    listed = json.loads(command.run("dead", "list", "--json").stdout)
    assert [one["subscription"] for one in listed] == ["order.placed/shop.audit"]
    assert command.run("dead", "list", "shop.mail", "--json").stdout == "[]\n"

    stage.touch("go")
    wait_until(lambda: command.run("why", "m1", "shop.mail").returncode == 66, 20, "the end of the handler")
    service.terminate()
    absent = command.run("why", "nowhere", "--app", "shop")
    assert (absent.returncode, absent.stdout, absent.stderr.count("\n")) == (66, "", 1)


def test_what_was_published_with_an_id_and_is_done_is_told(command: Command, home: Home) -> None:
    session = open_session(f"filesystem://{home.state}/busworker/bus")
    session.declare()
    work = session.declare_work("order.placed", "shop", "mail")
    done, later = event("order.placed", message_id="done"), event("order.placed", message_id="later")
    done.once, later.delay = True, 600
    session.publish([done, later, event("nobody.listens", message_id="lost")])
    session.consume(work, 1)
    session.settle([ack(one) for one in fetched(session, 1)])
    session.close()

    unrouted = command.run("why", "lost").stdout
    assert unrouted.startswith("unrouted nobody.listens: nobody subscribed to it")
    assert command.run("why", "lost", "unrouted").stdout == unrouted
    assert command.run("why", "lost", "shop").returncode == 66
    assert command.run("why", "later").stdout.startswith("order.placed: published for later")
    told = command.run("why", "done")
    assert (told.returncode, told.stdout) == (66, "")
    assert "no subscription holds done: it was published to order.placed at " in told.stderr


def test_on_rabbitmq_somebody_has_to_say_where(command: Command, amqp_url: str) -> None:
    done = command.run("why", "m1", "--broker", amqp_url)
    assert (done.returncode, done.stdout) == (2, "")
    assert "this broker lists no queues" in done.stderr
