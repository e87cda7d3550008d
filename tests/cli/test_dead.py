"""`busworker dead`, on dead letters that a consumer could have left."""

import json
import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from busworker import copies
from busworker.broker import topology
from busworker.broker.session import Counts, Session, open_session
from busworker.message import Delivery, Outgoing, read_envelope
from busworker.outcome import Error, WorkerInfo
from tests.support import Command, Home, wait_until

Bury = Callable[..., None]
Dead = Callable[..., Any]


@pytest.fixture
def bury(broker_url: str) -> Bury:
    """Puts a dead letter into a subscription, which is made."""

    def bury(channel: str, id: str, reason: str = "exception", dead_at: str = "2026-01-01T00:00:00.000Z") -> None:
        session = open_session(broker_url)
        session.declare()
        work = session.declare_work("user.registered", "email", channel)
        message = Delivery(
            1,
            work,
            "user.registered",
            False,
            {"message_id": id},
            {},
            b'{"text": "\x9b31m"}'.replace(b"\x9b", b"\xc2\x9b"),
        )
        letter = copies.Letter(
            reason, 3, dead_at, Error("ValueError", "bad \x1b[31m", "line 1\nline 2"), WorkerInfo("h", 7)
        )
        session.publish([copies.dead_copy(message, read_envelope(message), letter, topology.dead_target(work))])
        session.close()

    return bury


@pytest.fixture
def dead(command: Command, broker_url: str, keeper: Session) -> Dead:
    """Runs `busworker dead` on the bus."""
    return lambda *args, **how: command.run("dead", *args, "--broker", broker_url, **how)


@pytest.fixture
def keeper(broker_url: str) -> Any:
    """A session that keeps a bus in memory alive."""
    session = open_session(broker_url)
    session.declare()
    yield session
    session.close()


def ids(done: Any) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [letter["id"] for letter in json.loads(done.stdout)]


def test_a_list_is_newest_first_over_all_subscriptions(bury: Bury, dead: Dead) -> None:
    for channel, id, day in (("a", "m1", 1), ("b", "m2", 3), ("a", "m3", 2)):
        bury(channel, id, dead_at=f"2026-01-0{day}T00:00:00.000Z")
    assert ids(dead("list", "--json")) == ["m2", "m3", "m1"]
    assert ids(dead("list", "--json", "--limit", "2")) == ["m2", "m3"]
    assert ids(dead("list", "email.a", "--json")) == ["m3", "m1"]
    assert ids(dead("list", "user.registered/email.b", "--json")) == ["m2"]
    assert ids(dead("list", "m1", "--json")) == ["m1"]
    assert ids(dead("list", "--id", "m2", "--id", "m1", "--json")) == ["m2", "m1"]


def test_lists_are_filtered_by_reason_and_age(bury: Bury, dead: Dead) -> None:
    bury("a", "m1", reason="crash")
    bury("a", "m2", dead_at="2099-01-01T00:00:00.000Z")
    assert ids(dead("list", "--reason", "crash", "--json")) == ["m1"]
    assert ids(dead("list", "--older-than", "1d", "--json")) == ["m1"]


@pytest.mark.parametrize("broker_url", ["filesystem"], indirect=True)
def test_letters_are_counted_by_reason_or_error_the_most_first(bury: Bury, dead: Dead) -> None:
    bury("a", "m1", reason="crash", dead_at="2026-01-02T00:00:00.000Z")
    bury("a", "m2", dead_at="2026-01-03T00:00:00.000Z")
    bury("a", "m3", dead_at="2026-01-01T00:00:00.000Z")
    first, second = json.loads(dead("list", "--group-by", "reason", "--json").stdout)
    assert first == {
        "subscription": "user.registered/email.a",
        "reason": "exception",
        "count": 2,
        "oldest": "2026-01-01T00:00:00.000Z",
        "newest": "2026-01-03T00:00:00.000Z",
    }
    assert (second["reason"], second["count"]) == ("crash", 1)
    line = dead("list", "email", "--group-by", "error").stdout.splitlines()[1]
    assert line.split()[:3] == ["3", "user.registered/email.a", "ValueError"]
    assert line.endswith("bad \\x1b[31m")
    assert dead("list", "m9", "--group-by", "reason").returncode == 66


def test_an_empty_list_is_no_error(bury: Bury, dead: Dead) -> None:
    bury("a", "m1")
    assert ids(dead("list", "unrouted", "--json")) == []
    assert dead("list", "unrouted").stdout.split()[0] == "ID"


def test_what_is_not_there_is_66(bury: Bury, dead: Dead) -> None:
    bury("a", "m1")
    for args in (["list", "shop"], ["show", "m9"], ["replay", "m1", "m9"], ["drop", "m9", "--yes"], ["export", "m9"]):
        done = dead(*args)
        assert (done.returncode, done.stdout) == (66, "")
    assert ids(dead("list", "--json")) == ["m1"]


def test_show_is_one_object_in_full(bury: Bury, dead: Dead) -> None:
    bury("a", "m1")
    letter = json.loads(dead("show", "m1", "--json").stdout)
    assert letter["error"] == {"type": "ValueError", "message": "bad \x1b[31m", "traceback": "line 1\nline 2"}
    assert (letter["attempts"], letter["worker"]["host"], letter["body"]) == (3, "h", {"text": "\x9b31m"})
    assert letter["body_base64"]


def test_text_for_people_drives_no_terminal(bury: Bury, dead: Dead) -> None:
    bury("a", "m1")
    for args in (["list"], ["list", "--json"], ["show", "m1"], ["show", "m1", "--json"], ["export"]):
        text = dead(*args).stdout
        assert "m1" in text
        assert not any(char in text for char in "\x1b\x9b")
    assert "  line 1\n  line 2\n" in dead("show", "m1").stdout


@pytest.mark.parametrize("broker_url", ["filesystem"], indirect=True)
def test_show_tells_the_command_that_replays_it_whatever_its_id(bury: Bury, dead: Dead, command: Command) -> None:
    bury("a", "it's\x1b[31m")
    bury("b", "it's\x1b[31m")
    line = dead("show", "email.a", "it's\x1b[31m").stdout.splitlines()[-1].strip()
    assert line.startswith(r"busworker dead replay --id $'it\'s\x1b[31m' user.registered/email.a --broker ")
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True)
    assert command.run(*words.stdout.split("\0")[1:-1]).stdout == "replayed 1\n"
    assert len(ids(dead("list", "email.b", "--json"))) == 1


def test_show_of_an_id_dead_in_several_lists_them(bury: Bury, dead: Dead) -> None:
    bury("a", "m1")
    bury("b", "m1")
    done = dead("show", "m1")
    assert done.returncode == 2
    assert "user.registered/email.a, user.registered/email.b" in done.stderr
    assert dead("show", "email.b", "m1").returncode == 0
    assert dead("show", "email").returncode == 2


def test_replay_goes_back_to_the_own_subscription_as_attempt_1(bury: Bury, dead: Dead, keeper: Session) -> None:
    bury("a", "m1")
    bury("b", "m1")
    done = dead("replay", "email.a", "m1")
    assert (done.returncode, done.stdout) == (0, "replayed 1\n")
    (again,) = keeper.browse(topology.work_queue("user.registered", "email", "a"))
    assert list(keeper.browse(topology.work_queue("user.registered", "email", "b"))) == []
    envelope = read_envelope(again)
    assert (envelope.id, envelope.topic, envelope.attempt, envelope.replay) == ("m1", "user.registered", 1, 1)
    (death,) = copies.read_history(again.headers)
    assert isinstance(death, dict)
    assert (death["reason"], death["attempts"]) == ("exception", 3)
    assert ids(dead("list", "--json")) == ["m1"]


def test_replay_of_an_id_takes_all_of_its_deaths(bury: Bury, dead: Dead) -> None:
    bury("a", "m1")
    bury("b", "m1")
    bury("b", "m2")
    assert dead("replay", "m1").stdout == "replayed 2\n"
    assert dead("replay", "--everywhere", "--json").stdout == '{"replayed":1}\n'
    assert dead("replay", "email").stdout == "replayed 0\n"


def test_a_replay_beside_a_drop_leaves_out_what_is_gone_meanwhile(
    bury: Bury, command: Command, broker_url: str, keeper: Session
) -> None:
    bury("a", "m")
    work = topology.work_queue("user.registered", "email", "a")
    queue = topology.dead_queue(work)
    (letter,) = keeper.browse(queue)
    keeper.publish([Outgoing("", queue, letter.body, {"message_id": f"m{n}"}, letter.headers) for n in range(999)])
    options = ("--everywhere", "--json", "--broker", broker_url)
    replaying, dropping = command.start("dead", "replay", *options), command.start("dead", "drop", "--yes", *options)
    assert (replaying.wait(), dropping.wait()) == (0, 0), replaying.stderr + dropping.stderr
    replayed, dropped = json.loads(replaying.stdout)["replayed"], json.loads(dropping.stdout)["dropped"]
    assert replayed + dropped == 1000
    assert keeper.counts(queue) == Counts(0, 0)
    assert keeper.counts(work) == Counts(replayed, 0)


def test_replay_is_limited(bury: Bury, dead: Dead) -> None:
    for number in range(3):
        bury("a", f"m{number}")
    assert dead("replay", "email", "--limit", "2").stdout == "replayed 2\n"
    assert len(ids(dead("list", "--json"))) == 1


@pytest.mark.parametrize("broker_url", ["filesystem"], indirect=True)
def test_a_dry_run_tells_what_a_replay_would_take_and_changes_nothing(bury: Bury, dead: Dead) -> None:
    for number in range(3):
        bury("a", f"m{number}")
    (told,) = dead("replay", "email", "--limit", "2", "--dry-run", "--json").stdout.splitlines()
    assert json.loads(told) == {
        "would_replay": 2,
        "letters": [{"id": id, "subscription": "user.registered/email.a"} for id in ("m0", "m1")],
    }
    head, *rows, last = dead("replay", "--everywhere", "--dry-run").stdout.splitlines()
    assert [row.split()[0] for row in (head, *rows)] == ["ID", "m0", "m1", "m2"]
    assert last == "would replay 3"
    assert dead("replay", "m9", "--dry-run").returncode == 66


def test_a_replay_that_is_ended_tells_how_far_it_came_and_another_goes_on(
    bury: Bury, dead: Dead, command: Command, broker_url: str, keeper: Session
) -> None:
    bury("a", "m")
    work = topology.work_queue("user.registered", "email", "a")
    queue = topology.dead_queue(work)
    (letter,) = keeper.browse(queue)
    keeper.publish([Outgoing("", queue, letter.body, {"message_id": f"m{n}"}, letter.headers) for n in range(99)])

    def replayed() -> int:
        return sum(1 for _ in keeper.browse(work))

    replaying = command.start("dead", "replay", "--everywhere", "--rate", "20", "--broker", broker_url)
    wait_until(lambda: replayed() > 4, 20, "it has begun")
    assert replaying.terminate() == 128 + signal.SIGTERM
    done = replayed()
    assert replaying.stdout == f"replayed {done}\n"
    assert 4 < done < 100
    assert dead("replay", "--everywhere").stdout == f"replayed {100 - done}\n"
    assert len({one.properties["message_id"] for one in keeper.browse(work)}) == replayed() == 100


def test_an_unrouted_message_is_published_again_once_somebody_subscribes(
    bury: Bury, dead: Dead, keeper: Session
) -> None:
    keeper.publish([Outgoing("busworker", "user.registered", b"1", {"message_id": "u1"}, {})])
    assert dead("replay", "unrouted").stdout == "replayed 0\n"
    assert ids(dead("list", "unrouted", "--json")) == ["u1"]
    keeper.declare_work("user.registered", "email", "a")
    keeper.declare_work("user.registered", "email", "b")
    assert dead("replay", "unrouted").stdout == "replayed 1\n"
    for channel in ("a", "b"):
        (again,) = keeper.browse(topology.work_queue("user.registered", "email", channel))
        assert read_envelope(again).id == "u1"


def test_drop_asks_first(bury: Bury, dead: Dead) -> None:
    bury("a", "m1")
    bury("a", "m2")
    assert dead("drop", "email").returncode == 2
    refused = dead("drop", "email", input="n\n")
    assert (refused.returncode, "nothing was dropped" in refused.stderr) == (0, True)
    assert ids(dead("list", "--json")) == ["m2", "m1"]
    assert dead("drop", "m1", input="y\n").stdout == "dropped 1\n"
    assert dead("drop", "--everywhere", "--yes").stdout == "dropped 1\n"
    assert ids(dead("list", "--json")) == []


def test_export_is_json_lines_with_the_bytes(bury: Bury, dead: Dead) -> None:
    bury("a", "m1")
    bury("b", "m2")
    lines = [json.loads(line) for line in dead("export").stdout.splitlines()]
    assert {line["id"] for line in lines} == {"m1", "m2"}
    assert all(line["body_base64"] for line in lines)
    assert len(dead("export", "--limit", "1").stdout.splitlines()) == 1


def test_without_a_selector_an_application_names_the_subscriptions(bury: Bury, dead: Dead, home: Home) -> None:
    bury("a", "m1")
    bury("b", "m2")
    home.write(
        "app.py",
        "from busworker import Bus, Topic\nbus = Bus('email')\n"
        "bus.channel('a').subscribe(Topic('user.registered', dict))(print)",
    )
    assert ids(dead("list", "--app", "app", "--json")) == ["m1"]
    assert ids(dead("list", "email.b", "--app", "app", "--json")) == ["m2"]


def test_on_amqp_a_full_selector_or_an_application_is_needed(command: Command, amqp_url: str, home: Home) -> None:
    session = open_session(amqp_url)
    session.declare()
    work = session.declare_work("user.registered", "email", "a")
    for id in ("m1", "m2"):
        message = Delivery(1, work, "user.registered", False, {"message_id": id}, {}, b"1")
        letter = copies.Letter("crash", 1, "2026-01-01T00:00:00.000Z", Error("X", "y"), WorkerInfo())
        session.publish([copies.dead_copy(message, read_envelope(message), letter, topology.dead_target(work))])
    session.close()
    home.write(
        "app.py",
        "from busworker import Bus, Topic\nbus = Bus('email')\n"
        "bus.channel('a').subscribe(Topic('user.registered', dict))(print)",
    )

    def dead(*args: str) -> Any:
        return command.run("dead", *args, "--broker", amqp_url)

    assert dead("list").returncode == 2
    assert dead("list", "email").returncode == 2
    assert dead("show", "m1").returncode == 2
    assert dead("list", "user.registered/email.nope").returncode == 66
    assert ids(dead("list", "unrouted", "--json")) == []
    assert ids(dead("list", "user.registered/email.a", "--json")) == ["m1", "m2"]
    assert ids(dead("list", "--app", "app", "email", "--json")) == ["m1", "m2"]
    assert dead("run", "m1", "--app", "app").returncode == 65, "the handler takes a dict, and it is given back"
    (group,) = json.loads(dead("list", "--app", "app", "--group-by", "error", "--json").stdout)
    assert (group["error"], group["message"], group["count"]) == ("X", "y", 2)
    replayed = dead("replay", "user.registered/email.a", "m1")
    assert (replayed.stderr, replayed.stdout) == ("", "replayed 1\n")
    assert dead("drop", "--app", "app", "m2", "--yes").stdout == "dropped 1\n"
    assert ids(dead("list", "--app", "app", "--json")) == []
