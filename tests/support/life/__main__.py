"""`python -m tests.support.life EXAMPLES [SEED [BROKER]]`: plays known lives and so many more, and tells what happened.

Without a seed, or with an empty one, always the same; `random` is another one each time. BROKER is the URL of a bus on
RabbitMQ; without it each life has a store of its own. Exit 1: something happened that the table doesn't allow, and the
way to it.
"""

import logging
import os
import sys
from collections import Counter

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.life.clock import Clock
from tests.support.life.known import KNOWN, play
from tests.support.life.machine import machine

STEPS = 50


def main(examples: int, chosen: str, broker: str) -> None:
    logging.disable()  # consumers tell of each fault
    happened, clock = Counter[str](), Clock()
    for life in KNOWN:
        for concurrency in (1,) if broker else (1, 3):  # there each takes true time
            play(life, concurrency, clock, broker)
    lives = machine(clock, happened, broker)
    if chosen:
        number = int.from_bytes(os.urandom(4)) if chosen == "random" else int(chosen)
        print(f"{number:6} is the seed", flush=True)
        lives = seed(number)(lives)
    run_state_machine_as_test(
        lives,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            derandomize=not chosen,
            database=None,
            deadline=None,
            phases=[Phase.generate],  # the processes' pace makes shortening a matter of luck
            suppress_health_check=list(HealthCheck),
        ),
    )
    for what, count in sorted(happened.items()):
        print(f"{count:6} {what}")


if __name__ == "__main__":
    main(int(sys.argv[1]), *[*sys.argv[2:], "", ""][:2])
