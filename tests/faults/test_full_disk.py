"""A store on a disk that somebody else fills to the last byte: publishes are refused, all else goes on.

The disk is a file system of 20 MB in a mount namespace of the test's own, gone with its process.
"""

from tests.support import Home
from tests.support.mounting import run_where_it_may_mount

MOUNTED = """
import os, subprocess, sys
from pathlib import Path
import kombu
from amqp.basic_message import Message
from busworker.errors import BrokerUnavailable

disk = Path(sys.argv[1])
disk.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)], check=True)

def opened():
    url, transport = f"filesystem://{disk}/bus", "busworker.transports:FilesystemTransport"
    channel = kombu.Connection(url, transport=transport).channel()
    channel.tx_select()
    return channel

channel = opened()
channel.queue_declare("work", auto_delete=False)
channel.queue_declare("dead", auto_delete=False)

def free():
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize

def fill():
    with open(disk / "foreign", "ab", 0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    assert free() == 0

def empty():
    (disk / "foreign").unlink()

def publish(count, size):
    for number in range(count):
        channel.basic_publish(Message(b"%d " % number + b"x" * size), "", "work")
    try:
        channel.tx_commit()
    except BrokerUnavailable:
        channel.tx_rollback()
        raise

def publish_until_refused(count, size):
    done = 0
    while True:
        try:
            publish(count, size)
        except BrokerUnavailable as error:
            return done, str(error)
        done += count

def drain(most, copy=None):
    "Settles all, each transaction as often as it takes up to `most` times; how many."
    handled = 0
    while True:
        batch = []
        while len(batch) < 20 and (raw := repeated(lambda: channel.basic_get("work"), most)):
            batch.append(raw)
        for raw in batch:
            channel.basic_ack(raw.delivery_tag)
            if copy:
                channel.basic_publish(Message(raw.body), "", copy)
        repeated(channel.tx_commit, most)
        handled += len(batch)
        if not batch:
            return handled

def repeated(action, most):
    for left in reversed(range(most)):
        try:
            return action()
        except BrokerUnavailable:
            if not left:
                raise

def count(queue):
    return channel.queue_declare(queue, passive=True).message_count
"""

REFUSED = """
done, error = publish_until_refused(20, 1000)
assert done > 5000, done
print(count("work") == done, free() > 500_000, "takes no messages" in error, str(disk) in error, "free some" in error)
fill()
assert drain(3) == done
print(count("work"))
empty()
publish(20, 1000)
print(count("work"))
"""

RESERVE = """
publish(1000, 1000)
channel.connection.close()
fill()
channel = opened()
reserve = disk / "bus" / "reserve"
assert drain(3, copy="dead") == 1000
print(count("work"), count("dead"), reserve.exists())
empty()
opened()
print(reserve.exists())
"""

FULL_OF_FREED = """
done, _ = publish_until_refused(20, 1000)
assert drain(1) == done
print(publish_until_refused(20, 1000)[0] > done * 0.9)
"""

STILL_USED = '''
import subprocess, sys
from pathlib import Path
from busworker import Bus, Topic
from busworker.errors import PublishFailed

subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", "/dev/shm"], check=True)
bus = Bus("till", broker="memory://shop", publish_deadline=0.3)
topic = Topic("order.placed", int)
OTHER = """
import kombu
with kombu.Connection("memory://shop", transport="busworker.transports:MemoryTransport") as other:
    channel = other.channel()
    channel.queue_declare("work", auto_delete=False)
    channel.queue_bind("work", "busworker", "#")
    print(channel.queue_declare("work", passive=True).message_count)
"""

def other():
    return subprocess.run([sys.executable, "-c", OTHER], check=True, capture_output=True, text=True).stdout.strip()

bus.publish(topic, 0).wait(5)
other()
for number in range(10):
    bus.publish(topic, number).wait(5)
with open("/dev/shm/foreign", "wb") as file:
    try:
        file.write(b"x" * (1 << 30))
    except OSError:
        pass
try:
    bus.publish(topic, 11).wait(5)
except PublishFailed as error:
    print(error)
Path("/dev/shm/foreign").unlink()
print(other())
bus.close()
'''

OWED = """
import os, signal, subprocess, time
from tests.support import Command, Home, Stage, wait_until

APP = '''
from busworker import Bus, RetryPolicy, Topic
from recording import record, wait_for
bus = Bus("shop")
@bus.channel("pool").subscribe(Topic("work", int), retry=RetryPolicy(3, delays=(0,)), time_limit=None)
def handle(event, message):
    record("begin", event, message.attempt)
    wait_for("gate")
'''
home = Home.create()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(home.state)], check=True)
command = Command(home)
try:
    stage = Stage(command, home)
    home.write("shop.py", APP)
    service = stage.start("shop")
    stage.publish("work", 1)
    stage.wait_recorded(1)
    foreign = home.state / "foreign"
    with foreign.open("ab", 0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    (consumer,) = service.tree("consumer")
    os.kill(consumer.pid, signal.SIGKILL)
    service.wait_log("can't be written down")
    refused = command.run("start", "shop", "--instance", "other")
    print(refused.returncode in (69, 78), refused.stderr.count(chr(10)))
    foreign.unlink()
    stage.touch("gate")
    stage.wait_empty("shop")
    print(service.exit_code, [line.attempt for line in stage.record()], service.terminate())
finally:
    command.close()
    subprocess.run(["umount", "-l", str(home.state)], check=True)
    home.remove()
"""


def on_a_small_disk(home: Home, script: str) -> list[str]:
    """The lines that a script prints."""
    return run_where_it_may_mount(MOUNTED + script, str(home.path / "disk"), env=home.env, timeout=60)


def test_publishes_are_refused_before_the_disk_is_full_and_a_full_one_can_be_drained(home: Home) -> None:
    assert on_a_small_disk(home, REFUSED) == ["True True True True True", "0", "20"]


def test_on_a_full_disk_the_reserve_lets_settlements_go_on_and_is_made_again(home: Home) -> None:
    assert on_a_small_disk(home, RESERVE) == ["0 1000 False", "True"]


def test_space_of_settled_messages_counts_as_free(home: Home) -> None:
    assert on_a_small_disk(home, FULL_OF_FREED) == ["True"]


def test_a_publisher_that_is_refused_still_uses_its_bus_in_memory(home: Home) -> None:
    refused, left = run_where_it_may_mount(STILL_USED, env=home.env, timeout=60)
    assert "takes no messages" in refused
    assert "/dev/shm often has only 64 MB" in refused
    assert left == "10", "wiped: nobody seemed to use it"


def test_a_consumer_that_dies_on_a_full_disk_is_replaced_and_charged_once_there_is_space(home: Home) -> None:
    refused, ended = run_where_it_may_mount(OWED, env=home.env, timeout=60)
    assert refused == "True 1"  # one line, and nothing unexpected
    assert ended == "None [1, 2] 0"
