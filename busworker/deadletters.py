"""Dead letters in a broker: list, show, replay, drop, export. Runs in the command's process.

A replayed message is stored in its work queue before its dead letter is acknowledged, on the engine in the
same transaction, so an interrupted replay loses nothing; on AMQP it may then exist twice.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from busworker.broker import topology
from busworker.copies import Target, replay_copy
from busworker.errors import NothingMatches
from busworker.letters import DeadLetter, Filter, fits, history_entry, queue_of, read_letter
from busworker.message import BUS_EXCHANGE, Delivery, Outgoing, milliseconds, read_envelope
from busworker.pace import BATCH, Pace
from busworker.uninterrupted import UNINTERRUPTED

if TYPE_CHECKING:
    from busworker.broker.session import Session, Settled

HOLD = 300.0
"""Seconds for which letters are held on AMQP that wait for their turn. RabbitMQ gives a delivery back that isn't
acknowledged for half an hour (its `consumer_timeout`), and whoever else wants to look gets a turn in between."""


def subscriptions(session: Session) -> list[str] | None:
    """The subscriptions that have queues in the broker, sorted; None where it can't list them (AMQP)."""
    queues = session.queues()
    if queues is None:
        return None
    return sorted({name for queue in queues if (name := topology.subscription_of(queue)) is not None})


def existing(session: Session, names: Iterable[str]) -> list[str]:
    """Those of the subscriptions whose queue of dead letters exists."""
    return [name for name in names if session.counts(queue_of(name)) is not None]


def find(
    session: Session,
    queues: Sequence[str],
    wanted: Filter,
    limit: int | None,
    *,
    with_bytes: bool = False,
    newest_first: bool = True,
) -> Generator[DeadLetter]:
    """The dead letters that are wanted, queue by queue.

    Args:
        session: the broker; nothing in it is changed.
        queues: where to look; those that don't exist hold nothing.
        wanted: which.
        limit: how many from each queue at most; None: all.
        with_bytes: whether each has its body as base64.
        newest_first: within each queue; AMQP always has the oldest first.
    """
    with closing(look(session, queues, wanted, limit, with_bytes=with_bytes, newest_first=newest_first)) as found:
        for _, letter in found:
            yield letter


def look(
    session: Session,
    queues: Sequence[str],
    wanted: Filter,
    limit: int | None,
    *,
    with_bytes: bool = False,
    newest_first: bool = True,
) -> Generator[tuple[Delivery, DeadLetter]]:
    """As `find`, with the messages themselves."""
    for queue in queues:
        if session.counts(queue) is None:
            continue
        # Who says how many are wanted has no more delivered.
        most = limit if wanted == Filter() else None
        with closing(session.browse(queue, limit=most, newest_first=newest_first)) as deliveries:
            found = ((delivery, read_letter(delivery, with_bytes=with_bytes)) for delivery in deliveries)
            yield from itertools.islice((one for one in found if fits(one[1], wanted)), limit)


def listed(
    session: Session, queues: Sequence[str], wanted: Filter, limit: int | None, *, newest_first: bool
) -> Generator[DeadLetter]:
    """As `find`, and in the order of their deaths over all queues.

    On AMQP (not `newest_first`) a queue is in that order already, and none of it is held in memory; nor are several
    queues without a limit, which come one after the other.
    """
    with closing(find(session, queues, wanted, limit)) as found:
        if newest_first or (limit is not None and len(queues) > 1):
            yield from newest(found, limit, newest_first=newest_first)
        else:
            yield from found


def number(session: Session, queues: Sequence[str], wanted: Filter) -> int:
    """How many dead letters are wanted."""
    if wanted == Filter():
        return sum(counts.ready for queue in queues if (counts := session.counts(queue)) is not None)
    return sum(1 for _ in find(session, queues, wanted, None))


def newest(letters: Iterable[DeadLetter], limit: int | None, *, newest_first: bool = True) -> list[DeadLetter]:
    """At most `limit` letters in the order of their deaths; those that don't say when come last."""
    known = sorted(letters, key=lambda letter: letter.dead_at or "", reverse=newest_first)
    ordered = known if newest_first else sorted(known, key=lambda letter: letter.dead_at is None)
    return ordered[:limit]


def replay(
    session: Session,
    queues: Sequence[str],
    wanted: Filter,
    limit: int | None,
    clock: Callable[[], float],
    pace: Pace | None = None,
) -> int:
    """Runs dead letters again: each in its own subscription only, as attempt 1 of a new generation.

    A message of the unrouted queue is published again by its topic; it stays if nobody subscribes to that.

    Args:
        session: the broker.
        queues: where they lie.
        wanted: which.
        limit: how many in all at most; None: all.
        clock: Unix time, for the history.
        pace: how fast; it counts them, also if this is interrupted. None: as fast as it goes.

    Returns:
        How many.

    Raises:
        NothingMatches: the subscription doesn't exist any more; those before it are replayed.

    Guarantees:
        What a signal handler raises by `uninterrupted.interrupt` comes between two batches or while it sleeps: each
        letter is then either replayed and gone, or untouched.
    """

    def settled(delivery: Delivery) -> Settled:
        return _acknowledged(delivery, _revived(delivery, clock()))

    done = 0
    for queue in queues:
        meant = partial(_meant, _accepting(session, queue), wanted)
        done += _each(session, queue, meant, _room(limit, done), settled, pace or Pace())
    return done


def replayable(session: Session, queues: Sequence[str], wanted: Filter, limit: int | None) -> Generator[DeadLetter]:
    """What `replay` would run again now, in that order. Nothing changes.

    Raises:
        NothingMatches: as `replay`.
    """
    done = 0
    for queue in queues:
        meant = partial(_meant, _accepting(session, queue), wanted)
        if _room(limit, done) == 0 or session.counts(queue) is None:
            continue
        with closing(session.browse(queue, newest_first=False)) as deliveries:
            for delivery in itertools.islice(filter(meant, deliveries), _room(limit, done)):
                done += 1
                yield read_letter(delivery)


def drop(session: Session, queues: Sequence[str], wanted: Filter, limit: int | None, pace: Pace | None = None) -> int:
    """Removes dead letters for good; returns how many. `limit` counts over all queues; `pace` as with `replay`."""
    done = 0
    for queue in queues:
        meant = partial(_meant, _any, wanted)
        done += _each(session, queue, meant, _room(limit, done), _acknowledged, pace or Pace())
    return done


def drop_oldest(session: Session, queue: str, *, before: float | None, keep: int | None, most: int) -> int:
    """Removes the oldest messages of a queue that are beyond a limit, for good. On the engine only.

    Args:
        session: the broker.
        queue: of dead letters, or the unrouted one; one that doesn't exist holds nothing.
        before: Unix time: what died earlier goes; None: no such limit.
        keep: how many stay; None: no such limit.
        most: how many to remove at most.

    Returns:
        How many went.
    """
    counts = session.counts(queue)
    if counts is None:
        return 0
    surplus = 0 if keep is None else max(0, counts.ready - keep)
    aged = Filter(before=before)
    gone: set[tuple[str | None, str | None]] = set()
    for place, delivery in enumerate(session.browse(queue, limit=most, newest_first=False)):
        letter = read_letter(delivery)
        if place >= surplus and (before is None or not fits(letter, aged)):
            break
        gone.add((letter.id, letter.dead_at))
    done = 0
    # By what they are, not by their number: others may take some away meanwhile.
    for batch in session.take(queue, lambda delivery: _identity(delivery) in gone, len(gone), BATCH):
        session.settle([_acknowledged(delivery) for delivery in batch])
        done += len(batch)
    return done


def _identity(delivery: Delivery) -> tuple[str | None, str | None]:
    letter = read_letter(delivery)
    return letter.id, letter.dead_at


def _meant(accepted: Callable[[Delivery], bool], wanted: Filter, delivery: Delivery) -> bool:
    return accepted(delivery) and (wanted == Filter() or fits(read_letter(delivery), wanted))


def _acknowledged(delivery: Delivery, *publishes: Outgoing) -> Settled:
    from busworker.broker.session import Settled  # with it comes kombu, which --help must not pay for

    return Settled(delivery.tag, "ack", publishes)


def _any(_: Delivery) -> bool:
    return True


def _room(limit: int | None, done: int) -> int | None:
    return None if limit is None else limit - done


def _each(
    session: Session,
    queue: str,
    wanted: Callable[[Delivery], bool],
    limit: int | None,
    settled: Callable[[Delivery], Settled],
    pace: Pace,
) -> int:
    """Settles what is wanted, in batches.

    At most as many as there are now: a replayed message that dies at once comes back behind them and would be
    replayed for ever. What somebody else settles meanwhile isn't counted.
    """
    counts = session.counts(queue)
    if limit == 0 or counts is None:
        return 0
    done = 0
    with closing(_batches(session, queue, wanted, limit, counts.ready, pace)) as batches:
        for batch in batches:
            with UNINTERRUPTED:
                session.settle([settled(delivery) for delivery in batch])
                done += len(batch)
                pace.went(len(batch))
    return done


def _batches(
    session: Session, queue: str, wanted: Callable[[Delivery], bool], limit: int | None, there: int, pace: Pace
) -> Generator[list[Delivery]]:
    """What is wanted, each batch when its time has come, to be settled before the next. See `HOLD`."""
    done, is_over = 0, False
    while not is_over:
        pace.wait()
        until = time.monotonic() + HOLD
        rests = pace.limited and not session.broker.embedded
        meant = _first(there - done, wanted) if rests else wanted
        is_over = True
        with closing(session.take(queue, meant, _room(limit, done), pace.size)) as taken:
            for batch in taken:
                if rests and pace.due > until:
                    is_over = False
                    break
                pace.wait()
                yield batch
                done += len(batch)


def _first(number: int, wanted: Callable[[Delivery], bool]) -> Callable[[Delivery], bool]:
    """Whether a delivery is wanted and one of the first so many: what has come since is behind them."""
    places = itertools.count()
    return lambda delivery: next(places) < number and wanted(delivery)


def _accepting(session: Session, queue: str) -> Callable[[Delivery], bool]:
    """Whether a replayed message of a queue would reach a subscriber."""
    if queue == topology.UNROUTED:
        routed = _Remembered(session.routed)
        return lambda delivery: routed(read_envelope(delivery).topic) is not False
    work = _work_queue(queue)
    if session.counts(queue) is not None and session.counts(work) is None:
        name = topology.subscription_of(queue)
        raise NothingMatches(f"subscription {name} doesn't exist any more: export its dead letters, or start it again")
    return _any


class _Remembered(dict[str, bool | None]):
    """Asks once a topic."""

    def __init__(self, ask: Callable[[str], bool | None]) -> None:
        super().__init__()
        self._ask = ask

    def __call__(self, topic: str) -> bool | None:
        if topic not in self:
            self[topic] = self._ask(topic)
        return self[topic]


def _revived(delivery: Delivery, now: float) -> Outgoing:
    envelope = read_envelope(delivery)
    if delivery.queue == topology.UNROUTED:
        target = Target(BUS_EXCHANGE, envelope.topic)
    else:
        target = topology.retry_target(0, _work_queue(delivery.queue))
    return replay_copy(delivery, envelope, history_entry(read_letter(delivery), now), target, milliseconds(now))


def _work_queue(dead: str) -> str:
    return dead.removesuffix(topology.DEAD_SUFFIX)
