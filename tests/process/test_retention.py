"""How long dead letters and unrouted messages are kept: for ever, unless a setting says otherwise."""

from tests.support import Stage, wait_until

APP = """
from busworker import Bus, Reject, Topic
bus = Bus("shop")
@bus.channel("pool").subscribe(Topic("order.placed", int))
def refuse(event):
    raise Reject(str(event))
"""


def dead(stage: Stage) -> list[int]:
    """The events of the dead letters, oldest first."""
    return [letter["body"] for letter in reversed(stage.dead())]


def test_dead_letters_and_unrouted_messages_stay_until_a_limit_is_set(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    service = stage.start("shop", "--dead-max-count", "20")
    stage.publish("order.placed", *range(10))
    stage.publish("nobody.listens", 1, 2)
    wait_until(lambda: len(stage.dead()) == 10, 20, "all dead")
    assert service.terminate() == 0
    by_age = sorted(dead(stage))

    service = stage.start("shop", env={"BUSWORKER_DEAD_MAX_COUNT": "3"})
    wait_until(lambda: len(stage.dead()) == 3, 20, "the newest three")
    assert set(dead(stage)) <= set(by_age)
    assert service.terminate() == 0
    assert "dropped 7 messages of busworker.order.placed/shop.pool/dead" in service.stderr

    unrouted = ("dead", "list", "unrouted", "--json")
    assert stage.command.run(*unrouted).stdout.count('"nobody.listens"') == 2
    service = stage.start("shop", "--dead-max-age", "0s", "--unrouted-max-age", "0")
    wait_until(lambda: not stage.dead(), 20, "none left")
    wait_until(lambda: stage.command.run(*unrouted).stdout.split() == ["[]"], 20, "no unrouted left")
    assert service.terminate() == 0


def test_a_bad_limit_is_a_clear_error(stage: Stage) -> None:
    stage.home.write("shop.py", APP)
    for option, said in (("--dead-max-age=soon", "dead-max-age='soon'"), ("--dead-max-count=-1", "'-1' is no number")):
        done = stage.command.run("start", "shop", option)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert said in done.stderr
