"""What may become of a message: the table of docs/explanation/guarantees.md, written down a second time. Pure.

It is told what workers do, who dies, and what the consumer has committed, and raises `Violation` at the first thing
that the table doesn't allow: a message lost, executed twice at a time, charged while it waited, or settled otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

State: TypeAlias = Literal["ready", "handed", "begun", "ended", "owed", "done", "dead"]
End: TypeAlias = Literal[
    "returned", "exception", "rejected", "invalid", "time_limit", "memory_limit", "crash", "unhandled"
]
EARLY = 0.002
"""Seconds by which a delay may seem short: the store counts in whole milliseconds."""


class Violation(AssertionError):
    """Something happened that the table doesn't allow."""


@dataclass(frozen=True)
class Rules:
    """The retry policy of a subscription; `delays` are seconds."""

    max_attempts: int
    delays: tuple[int, ...]


@dataclass
class Life:
    """A message and where it is: `attempt` is the number of the execution that is next, or that is going on.

    `end` is how an attempt has ended that isn't settled yet, with the delay it asked for and what it published.
    `alone`: nothing may be executed beside it in its worker. `due`: not before. `key`: by which the scoreboard knows
    the attempt. `untold`: its worker was ended meanwhile, and the consumer may not know that this isn't charged.
    """

    rules: Rules
    served: bool = True
    state: State = "ready"
    attempt: int = 1
    generation: int = 0
    due: float = 0.0
    alone: bool = False
    end: End | None = None
    after: int | None = None
    published: tuple[bytes, ...] = ()
    dead: tuple[str, int] = ("", 0)
    key: bytes = b""
    untold: bool = False
    story: list[str] = field(default_factory=list)


class Table:
    """All messages, by their bodies: no two are alike."""

    def __init__(self, rules_of_published: Rules) -> None:
        self.lives: dict[bytes, Life] = {}
        self.ends = Counter[str]()
        self._rules_of_published = rules_of_published

    @property
    def unfinished(self) -> list[bytes]:
        return [body for body, life in self.lives.items() if life.state not in ("done", "dead")]

    @property
    def owes(self) -> bool:
        """Whether attempts of killed pools are still to be charged."""
        return any(life.state == "owed" for life in self.lives.values())

    def published(self, body: bytes, rules: Rules, *, served: bool = True) -> None:
        self.lives[body] = Life(rules, served)

    # What workers do

    def handed(self, body: bytes, attempt: int, key: bytes, now: float) -> None:
        """A worker has been handed it."""
        life = self._life(body, f"handed out as attempt {attempt}", "ready")
        self._check(body, life.served, "it is of a topic that isn't served")
        self._check(body, attempt == life.attempt, f"the attempt should be {life.attempt}")
        self._check(body, now >= life.due - EARLY, f"it is {life.due - now:.3f} s too early")
        life.state, life.key, life.untold = "handed", key, False

    def begun(self, body: bytes) -> None:
        """Its worker executes it."""
        self._life(body, "begun", "handed").state = "begun"

    def ended(self, body: bytes, end: End, after: int | None = None, published: tuple[bytes, ...] = ()) -> None:
        """Its worker has sent the whole outcome, or has died of it."""
        life = self._life(body, f"ended: {end}", "begun")
        life.state, life.end, life.after, life.published = "ended", end, after, published

    def given_back(self, body: bytes, *, untold: bool = False) -> None:
        """It goes back uncharged; `untold`: but if everything dies before the consumer knows, it may be charged."""
        life = self._life(body, "given back", "handed", "begun")
        life.state, life.untold = "ready", untold

    def told(self) -> None:
        """The consumer knows of all deaths so far."""
        for life in self.lives.values():
            life.untold = False

    def pool_killed(self, keys: Collection[bytes]) -> None:
        """Everything that held messages is dead; `keys` are those that the scoreboard calls open."""
        for body, life in self.lives.items():
            noted = life.key in keys
            if life.state in ("begun", "ended") or (life.untold and noted):
                self._check(body, noted, "it is charged to nobody when its pool is killed")
                life.story.append("owed")
                life.state, life.key, life.end, life.after, life.published = "owed", b"", "crash", None, ()
            else:
                self._check(body, not noted, "it is charged, and wasn't executing when its pool was killed")
                life.state = "ready" if life.state == "handed" else life.state
            life.untold = False

    # What is committed

    def returned(self, body: bytes) -> None:
        """The consumer has given it back to the broker."""
        self._life(body, "returned to the broker", "ready")

    def settled(self, body: bytes, attempt: int, now: float) -> None:
        """The consumer has settled it; `now` is before it did."""
        life = self._life(
            body, f"settled as attempt {attempt}", "ended", "owed", *(() if self.lives[body].served else ("ready",))
        )
        self._check(body, attempt == life.attempt, f"the attempt should be {life.attempt}")
        end: End = life.end if life.end is not None else "unhandled"
        self.ends[end] += 1
        life.end, life.key = None, b""
        match end:
            case "returned":
                life.state = "done"
                for other in life.published:
                    self.published(other, self._rules_of_published)
            case "rejected":
                self._dies(life, end, attempt)
            case "invalid" | "unhandled":
                self._dies(life, end, attempt - 1)
            case _ if attempt >= life.rules.max_attempts:
                self._dies(life, end, attempt)
            case _:
                self._tried_again(life, end, now)

    def replayed(self, body: bytes) -> None:
        """Its dead letter has been replayed."""
        life = self._life(body, "replayed", "dead")
        life.state, life.attempt, life.due, life.alone = "ready", 1, 0.0, False
        life.generation += 1

    def in_rest(self) -> None:
        """Nothing is executed or unsettled, since the pool has drained."""
        for body, life in self.lives.items():
            self._check(body, life.state in ("ready", "owed", "done", "dead"), "the pool has drained")

    # Within

    def _dies(self, life: Life, end: End, attempts: int) -> None:
        life.state, life.dead = "dead", (end, attempts)

    def _tried_again(self, life: Life, end: End, now: float) -> None:
        delays = life.rules.delays
        delay = delays[min(life.attempt, len(delays)) - 1] if life.after is None else life.after
        life.state, life.attempt, life.due, life.alone = "ready", life.attempt + 1, now + delay, end == "crash"

    def _life(self, body: bytes, what: str, *states: State) -> Life:
        if body not in self.lives:
            raise Violation(f"{body!r}: {what}, and nobody has published it")
        life = self.lives[body]
        self._check(body, life.state in states, f"it can't be {what}")
        life.story.append(what)
        return life

    def _check(self, body: bytes, holds: bool, otherwise: str) -> None:
        if not holds:
            life = self.lives[body]
            raise Violation(f"{body!r} is {life.state} ({', '.join(life.story)}): {otherwise}")
