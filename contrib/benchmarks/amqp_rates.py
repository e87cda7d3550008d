"""Rates on RabbitMQ of a whole service beside the bare py-amqp loops and its peers, in one run, on a node of its own.

    pip install --group bench
    python contrib/benchmarks/amqp_rates.py [--messages 30000] [--rounds 3] [--only consume,publish,latency]
        [--systems raw,busworker,kombu,celery,dramatiq] [--folder /var/tmp]

Each round, on classic and on quorum queues: publishing with confirms (py-amqp with a window of 1,000 unconfirmed
messages, `Bus.publish` with receipts), then draining what was published (py-amqp with one acknowledgement a message and
a prefetch of 500; the others with two processes and late acknowledgement; their handlers add a byte to a file). Celery,
Dramatiq and kombu's `confirm_publish` confirm one by one, and get fewer messages, on classic queues. Rounds take the
systems in turns. Latency is from a publish to the start of its handler on an idle bus, message by message in turns.
`CPU us` is the processor time a message takes of the system's own processes. Compare the ratios of one run; the
absolute figures are those of this machine and moment. A full run takes about four minutes on an idle machine.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from amqp_meter import Figure, Meter
from amqp_node import own_node
from amqp_programs import Busworker, Celery, Dramatiq
from amqp_raw import KombuConfirms, Raw

PARTS = ("publish", "consume", "latency")
SYSTEMS = ("raw", "busworker", "kombu", "celery", "dramatiq")
TYPES = ("classic", "quorum")
TIMED = 200
FEWER = {"kombu": 10, "celery": 3, "dramatiq": 3}
TO_REACH = {
    "publish": [("raw classic", "classic", 0.8), ("raw quorum", "quorum", 0.8)],
    "consume": [
        ("raw classic", "classic", 1.2),
        ("raw quorum", "quorum", 1.2),
        ("celery", "classic", 5.0),
        ("dramatiq", "classic", 2.0),
    ],
}
"""Part: the system to compare with, our queue type, and the ratio to reach."""

Found = dict[str, list[Figure]]


def systems(node: Any, folder: Path, wanted: list[str]) -> dict[str, Any]:
    """What is compared, each on a virtual host of its own."""
    meter = Meter(node.pid)
    makers: dict[str, Callable[[str], Any]] = {}
    for kind in TYPES:
        makers[f"raw {kind}"] = lambda url, kind=kind: Raw(meter, url, kind)
        makers[f"busworker {kind}"] = lambda url, kind=kind: Busworker(meter, folder, url, kind)
    makers["kombu"] = lambda url: KombuConfirms(meter, url)
    makers["celery"] = lambda url: Celery(meter, folder, url)
    makers["dramatiq"] = lambda url: Dramatiq(meter, folder, url)
    chosen = {name: make for name, make in makers.items() if name.split()[0] in wanted}
    node.add_vhosts(*(name.replace(" ", "-") for name in chosen))
    return {name: make(node.url(name.replace(" ", "-"))) for name, make in chosen.items()}


def rates(all_: dict[str, Any], parts: list[str], count: int, rounds: int) -> dict[str, Found]:
    """Publishes and drains with each system in turns, in the other order every second round."""
    found: dict[str, Found] = {"publish": {}, "consume": {}}
    for number in range(rounds):
        for name, system in list(all_.items())[:: -1 if number % 2 else 1]:
            messages = max(count // FEWER.get(name, 1), 100)
            found["publish"].setdefault(name, []).append(system.publish(messages))
            if "consume" in parts and hasattr(system, "drain"):
                found["consume"].setdefault(name, []).append(system.drain(messages))
            else:
                system.empty()
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return {part: each for part, each in found.items() if part in parts}


def show(part: str, found: Found) -> None:
    """Prints the medians of a part, and the ratios that matter."""
    titles = {"publish": "confirmed publish", "consume": "consume, handle, acknowledge"}
    print(f"\n{titles[part]:32}{'messages/s':>12}{'lowest':>10}{'highest':>10}{'CPU us':>9}{'broker us':>11}")
    for name, figures in found.items():
        speeds = [one.rate for one in figures]
        middle = [statistics.median(column) for column in zip(*figures, strict=True)]
        low, high = min(speeds), max(speeds)
        print(f"{name:32}{middle[0]:>12,.0f}{low:>10,.0f}{high:>10,.0f}{middle[1]:>9.0f}{middle[2]:>11.0f}")
    for other, kind, least in TO_REACH[part]:
        ours = f"busworker {kind}"
        if other in found and ours in found:
            pairs = zip(found[ours], found[other], strict=True)
            ratio = statistics.median(one.rate / base.rate for one, base in pairs)
            print(f"  {ours} / {other}: {ratio:.2f} (to reach {least:g})")


def latency(all_: dict[str, Any]) -> None:
    """Prints how long after a publish its handler starts, on idle buses."""
    timed = {name: system for name, system in all_.items() if name.startswith(("busworker", "dramatiq"))}
    for system in timed.values():
        system.start_timed()
    warm = {name: len(system.times()) for name, system in timed.items()}
    for _ in range(TIMED):
        for system in timed.values():
            system.time_one()
    print(f"\n{'publish to handler, idle bus':32}{'p50 ms':>12}{'p99 ms':>10}")
    for name, system in timed.items():
        system.stop()
        took = sorted(one * 1000 for one in system.times()[warm[name] :])
        print(f"{name:32}{took[len(took) // 2]:>12.2f}{took[len(took) * 99 // 100]:>10.2f}")
    print("  to reach: busworker classic no slower than dramatiq")


def chosen_from(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Reads a list with commas, each of which must be known."""

    def read(text: str) -> list[str]:
        if unknown := set(text.split(",")) - set(known):
            raise argparse.ArgumentTypeError(f"{min(unknown)}: use some of {','.join(known)}")
        return text.split(",")

    return read


def stop_in_order(*_: object) -> NoReturn:
    """TERM ends a run as Ctrl-C does: nothing of it stays."""
    raise SystemExit(143)


def main() -> None:
    """Runs the rounds and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=chosen_from(PARTS), default=list(PARTS))
    parser.add_argument("--systems", type=chosen_from(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, stop_in_order)
    folder = Path(tempfile.mkdtemp(prefix="amqp-rates-", dir=given.folder))
    node, all_ = own_node(folder / "node"), {}
    try:
        node.start()
        all_ = systems(node, folder, given.systems)
        if set(given.only) - {"latency"}:
            for part, found in rates(all_, given.only, given.messages, given.rounds).items():
                show(part, found)
        if "latency" in given.only:
            latency(all_)
    finally:
        for system in all_.values():
            system.stop()
        node.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
