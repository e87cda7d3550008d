"""Carries out a schedule of faults on a running service, and tells the story for the checker."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import Command, Home, Service, Stage, wait_until
from tests.support.chaos import history
from tests.support.chaos.breaking import Breakable
from tests.support.chaos.checker import check
from tests.support.chaos.copies import Copies
from tests.support.chaos.history import Execution, Fault, Key, Letter, Story
from tests.support.chaos.schedule import AMQP_DECK, CHANNELS, DECK, LIMITS, Deck, Step, schedule
from tests.support.processes import GONE, Member

HERE = Path(__file__).parent
PUBLISHERS = ("a", "b")
PACE, AMQP_PACE = 0.04, 0.1
"""Seconds between ten orders and the next: a little faster than they are handled."""
DISK_BYTES = 64 << 20
PATIENCE = 60.0
"""Seconds in which anything must happen that is waited for, on a busy machine."""
FOLLOW = 5.0
"""Seconds for the processes of a killed supervisor to be gone."""


@dataclass(frozen=True)
class Wishes:
    """What is asked for: `faults` within `messages`, on `scheme`; `disk`: a small one may be mounted and filled.

    `targets`: faults of these alone; empty for all.
    """

    seed: int
    messages: int
    faults: int
    disk: bool
    scheme: str = "filesystem"
    targets: Sequence[str] = ()

    @property
    def deck(self) -> Deck:
        """From which the faults are drawn."""
        whole = AMQP_DECK if self.scheme == "amqp" else DECK
        possible = [card for card in whole if self.disk or card[0] != "full"]
        return [card for card in possible if not self.targets or card[1] in self.targets]

    @property
    def lines(self) -> int:
        """About how many lines of history there will be."""
        return 2 * self.messages * len(CHANNELS)


class Chaos:
    """One run, in a home of its own. On AMQP this names the bus, which is the broker's that may be broken."""

    def __init__(self, wishes: Wishes, command: Command, home: Home, broker: Breakable | None = None) -> None:
        self.wishes = wishes
        self.faults: list[Fault] = []
        self._stage = Stage(command, home)
        self._home = home
        self._broker = broker
        self._disk = Path("/dev/shm") if wishes.scheme == "memory" else home.state
        self._pace = PACE if broker is None else AMQP_PACE
        self._env = {"CHAOS_SEED": str(wishes.seed)}
        if wishes.scheme == "memory":
            self._env["BUSWORKER_BROKER"] = "memory://chaos"
        self._service: Service | None = None
        self._lines, self._at = 0, 0
        self._began_full = False

    # The run

    def run(self) -> list[str]:
        """What the checker complains of."""
        if self.wishes.disk:
            _mount(self._disk)
        for name in ("shop.py", "till.py"):
            self._home.write(name, (HERE / name).read_text())
        self._start()
        wait_until(lambda: self._status().get("state") == "running", PATIENCE, lambda: f"a service\n{self._told()}")
        if self._broker is not None:
            self._broker.prepare()
        with self._publishers() as publishers:
            for step in schedule(self.wishes.seed, self.wishes.faults, self.wishes.lines, self.wishes.deck):
                self._wait_lines(step.after)
                self._do(step)
            for publisher in publishers:
                self._wait_done(publisher)
            self._wait_empty()
            letters = self._letters()
        self._end()
        return check(self._story(letters))

    def told_faults(self) -> str:
        """The journal of faults, one a line."""
        return "\n".join(
            f"  {fault.since:.3f} to {fault.until:.3f} {fault.kind} {fault.target} {fault.channel} {fault.pid or ''}"
            for fault in self.faults
        )

    def figures(self) -> str:
        """One line: how much happened."""
        story = self._story([])
        confirmed, refused = len(self._names("confirmed")), len(self._names("refused"))
        repeats = len(story.executions) - len(story.by_message())
        copies = Copies(story)
        perhaps = sum(bool(copies.why(key)) for key in story.by_message())
        uncharged = sorted(copies.uncharged().items())
        kinds = Counter(f"{fault.kind} {fault.target}" for fault in self.faults)
        return (
            f"seed {self.wishes.seed} {self.wishes.scheme}: {confirmed} confirmed, {refused} refused, "
            f"{len(story.executions)} executions, {repeats} of them repeats, {dict(uncharged)} of these not charged; "
            f"{perhaps} of {len(story.by_message())} messages were perhaps there twice; "
            f"{len(self.faults)} faults: {', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}"
        )

    # Faults

    def _do(self, step: Step) -> None:
        match step.kind, step.target:
            case _, "broker" | "connections":
                self._break(step)
            case "kill", _:
                self._kill(step.target, step.channel)
            case "stop", _:
                self._stop(step)
            case _:
                self._fill(step)
        self._keep_running()

    def _kill(self, target: str, channel: str) -> None:
        with self._journal("kill", target, channel) as fault:
            match target:
                case "tree":
                    self._running.kill_tree()
                case "supervisor":
                    self._running.kill()
                    wait_until(lambda: not self._running.tree(), FOLLOW, lambda: f"the end of {self._running.tree()}")
                case _:
                    self._kill_one(target, channel, fault)
        if target in ("tree", "supervisor"):
            self._start()

    def _kill_one(self, target: str, channel: str, fault: dict[str, float]) -> None:
        # The workers of a killed consumer may still begin what is in their links.
        followers = {one.pid for one in self._possible_workers(channel)} if target == "consumer" else set[int]()
        for victim in self._victims(target, channel):
            fault["pid"] = victim.pid
            _signal(victim.pid, signal.SIGKILL)
        with contextlib.suppress(AssertionError):  # a stopped supervisor can't end them
            wait_until(
                lambda: followers.isdisjoint(one.pid for one in self._possible_workers(channel)),
                FOLLOW,
                "the end of the workers",
            )

    def _stop(self, step: Step) -> None:
        victims = self._victims(step.target, step.channel)
        with self._journal("stop", step.target, step.channel) as fault:
            fault["pid"] = victims[0].pid if len(victims) == 1 else 0
            for victim in victims:
                _signal(victim.pid, signal.SIGSTOP)
            # The whole tree counts as stopped while every process is.
            fault["since" if step.target == "tree" else "sent"] = time.monotonic()
            self._last(step)
            fault["until" if step.target == "tree" else "let"] = time.monotonic()
            for victim in victims:
                _signal(victim.pid, signal.SIGCONT)

    def _break(self, step: Step) -> None:
        assert self._broker is not None, "there is no broker that may be broken"
        with self._journal(step.kind, step.target):
            self._broker.suffer(step, self._last)

    def _fill(self, step: Step) -> None:
        foreign = self._disk / "foreign"
        with self._journal("full", "disk"):
            with contextlib.suppress(OSError), foreign.open("ab", 0) as file:
                while True:
                    file.write(b"x" * 4096)
            self._last(step)
            self._keep_running(full=True)
            foreign.unlink()

    def _last(self, step: Step) -> None:
        """Lets a fault last for its time, with what happens within."""
        until = time.monotonic() + step.seconds
        if step.within:
            time.sleep(step.seconds / 2)
            self._kill(step.within, step.channel)
        time.sleep(max(0.0, until - time.monotonic()))

    @contextlib.contextmanager
    def _journal(self, kind: str, target: str, channel: str = "") -> Iterator[dict[str, float]]:
        """Writes a fault down with the times before and after it, or those that are put into what this yields."""
        told: dict[str, float] = {"since": time.monotonic(), "pid": 0}
        try:
            yield told
        finally:
            until = told.get("until", time.monotonic())
            of_channel = channel if target in ("worker", "consumer") else ""
            self.faults.append(Fault(kind, target, told["since"], until, of_channel, int(told["pid"])))

    def _victims(self, target: str, channel: str) -> list[Member]:
        if target == "tree":
            return self._running.tree()
        if target == "supervisor":
            return [one for one in self._running.tree("supervisor") if one.pid == self._running.pid]
        found = self._of_channel(target, channel)
        return found[:1] if len(found) < 2 else [found[len(self.faults) % len(found)]]

    def _of_channel(self, role: str, channel: str) -> list[Member]:
        return [one for one in self._running.tree(role) if one.subject.split("/")[0] == f"shop.{channel}"]

    def _possible_workers(self, channel: str) -> list[Member]:
        """Those of that channel, and whoever was just forked and doesn't yet say what it is."""
        untitled = [one for one in self._running.tree("supervisor") if one.pid != self._running.pid]
        return self._of_channel("worker", channel) + untitled

    # The service and the publishers

    @property
    def _running(self) -> Service:
        assert self._service is not None
        return self._service

    def _start(self) -> None:
        self._service = self._stage.launch("shop", env=self._env)

    def _keep_running(self, *, full: bool = False) -> None:
        """What a service manager does. Only on a full disk may a service end by itself: it can't start there."""
        if self._running.exit_code is not None:
            assert full or self._began_full, f"the service ended by itself\n{self._told()}"
            assert "unexpected" not in self._running.stderr, self._told()
            self._start()
        self._began_full = full

    @contextlib.contextmanager
    def _publishers(self) -> Iterator[list[subprocess.Popen[bytes]]]:
        count = self.wishes.messages // len(PUBLISHERS)
        started = [
            subprocess.Popen(
                [sys.executable, "till.py", name, str(count), str(self._pace)],
                cwd=self._home.path,
                env=self._home.env | self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for name in PUBLISHERS
        ]
        try:
            yield started
        finally:
            for publisher in started:
                publisher.kill()
                publisher.communicate()

    def _wait_done(self, publisher: subprocess.Popen[bytes]) -> None:
        def done() -> bool:
            self._keep_running()
            return publisher.poll() is not None or len(self._names("confirmed")) >= self._all

        wait_until(done, PATIENCE + self.wishes.messages / 100, lambda: f"all confirmed\n{self._told()}")
        assert publisher.poll() is None, "a publisher ended"

    @property
    def _all(self) -> int:
        return self.wishes.messages // len(PUBLISHERS) * len(PUBLISHERS)

    def _end(self) -> None:
        code = self._running.terminate()
        assert code == 0, f"exit code {code} at the end\n{self._told()}"

    # Waiting

    def _wait_lines(self, lines: int) -> None:
        wait_until(lambda: self._count() >= lines, PATIENCE, lambda: f"line {lines}, not {self._lines}\n{self._told()}")

    def _count(self) -> int:
        path = self._home.path / "history"
        if path.exists():
            with path.open("rb") as file:
                file.seek(self._at)
                fresh = file.read()
            self._at += len(fresh)
            self._lines += fresh.count(b"\n")
        return self._lines

    def _status(self) -> dict[str, object]:
        return self._stage.status("shop", env=self._env)

    def _wait_empty(self) -> None:
        def empty() -> bool:
            return self._stage.empty("shop", self._env) is not None

        wait_until(empty, PATIENCE + self.wishes.messages / 100, lambda: f"empty queues\n{self._told()}")

    # The story

    def _story(self, letters: list[Letter]) -> Story:
        executions = self._executions()
        returned = {one.key.name for one in executions if one.key.channel == "relay" and one.outcome == "returned"}
        dead = {letter.key.name for letter in letters if letter.key.channel == "relay"}
        tried, confirmed = self._names("tried"), self._names("confirmed")
        ended = confirmed | self._names("refused")
        published = {name: (since, ended.get(name, float("inf"))) for name, since in tried.items()}
        return Story(
            LIMITS,
            executions,
            self.faults,
            letters,
            _keys(tried, ("audit", "relay")) | _keys(returned, ("tail",)),
            _keys(confirmed, ("audit", "relay")) | _keys(returned - dead, ("tail",)),
            published=published if self._broker else {},
        )

    def _executions(self) -> list[Execution]:
        return history.read((self._home.path / "history").read_text().splitlines())

    def _letters(self) -> list[Letter]:
        return [
            Letter(Key(one["subscription"].rpartition(".")[2], one["body"]["name"]), one["reason"], one["attempts"])
            for one in self._stage.dead(env=self._env)
        ]

    def _names(self, name: str) -> dict[str, float]:
        """The orders in that file of the publishers, and when each came to it."""
        path = self._home.path / name
        lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
        return {order: float(at) for order, at in map(str.split, lines)}

    def _told(self) -> str:
        log = "\n".join(self._running.stderr.splitlines()[-40:])
        return f"status {self._status()}\nfaults\n{self.told_faults()}\nlast lines of the log\n{log}"


def _keys(names: Iterable[str], channels: tuple[str, ...]) -> frozenset[Key]:
    return frozenset(Key(channel, name) for channel in channels for name in names)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(*GONE):
        os.kill(pid, number)


def _mount(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=True)


def holds(chaos: Chaos, home: Home) -> bool:
    """Whether the promises hold under it; tells the figures, and what is complained of with the journal of faults."""
    complaints = _complaints(chaos.run)
    print(chaos.figures())
    if complaints:
        wishes = chaos.wishes
        _keep(home, wishes.seed)
        print(*complaints[:50], f"{len(complaints)} complaints; {wishes}; the faults:", chaos.told_faults(), sep="\n")
    return not complaints


def _keep(home: Home, seed: int) -> None:
    """Saves what tells more than the complaints: the logs and the history, for whoever names a folder for them."""
    if folder := os.environ.get("CHAOS_KEEP"):
        kept = Path(folder) / f"seed-{seed}"
        shutil.copytree(home.logs, kept / "logs", dirs_exist_ok=True)
        shutil.copy(home.path / "history", kept)


def _complaints(run: Callable[[], list[str]]) -> list[str]:
    try:
        return run()
    except AssertionError as error:
        return [str(error)]
