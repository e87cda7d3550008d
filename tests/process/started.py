"""`busworker.run.supervise` with the scripted consumer and worker, and a scripted trial of the broker."""

import os
import signal
import socket
import sys

from busworker import Bus, Topic, run
from busworker.errors import BrokerUnavailable, BusworkerError, ConfigurationError
from busworker.retention import Retention
from busworker.run_options import StartOptions

bus = Bus("email")
EXIT_CODES = {"BrokerUnavailable": 69, "AlreadyRunning": 73, "ConfigurationError": 78}


@bus.channel("welcome").subscribe(Topic("user.registered", dict[str, int]))
def handle(event: dict[str, int]) -> None:
    pass


def fitting(url: str, service: object) -> None:
    pass


def unavailable(url: str, service: object) -> None:
    raise BrokerUnavailable(f"{url} is out of reach")


def wrong(url: str, service: object) -> None:
    raise ConfigurationError(f"{url} makes no sense")


def dying(url: str, service: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(probe: str) -> int:
    run.CONSUMER_MAIN = "tests.process.supervised:consumer"
    run.WORKER_MAIN = "tests.process.supervised:worker"
    run.PROBE = f"tests.process.started:{probe}"
    left = socket.socket()
    workers = {"welcome": 1}
    options = StartOptions(
        "x:bus", bus, "memory://scripted", "default", 20.0, Retention(), True, "info", "text", workers
    )
    try:
        return run.supervise(options)
    except BusworkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CODES[type(error).__name__]
    finally:
        left.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
