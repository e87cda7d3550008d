"""One session with a broker: declare, fetch, settle, publish, browse. The contract, the same for every transport.

On the engine (`embedded.py`) a settlement is one transaction. On AMQP (`amqp.py`) it takes its time: what it publishes
must be confirmed first. A session belongs to one thread and is not carried over a fork.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import ClassVar, Literal

import msgspec

from busworker.broker.connection import CONNECT_TIMEOUT, translated
from busworker.broker.declarer import Declarer
from busworker.brokers import Broker, parse
from busworker.errors import BrokerUnavailable, BusworkerError
from busworker.message import Delivery, Outgoing

CONFIRM_TIMEOUT = 30.0
"""Seconds that a publish or a settlement waits for its confirms, where it waits; `submit` does not."""


class Settled(msgspec.Struct):
    """What becomes of a delivery: its publishes are stored, then it is acknowledged, or it is given back.

    "publish" is for publishes that belong to no delivery; their tag is any negative number.
    """

    tag: int
    verb: Literal["ack", "return", "publish"]
    publishes: tuple[Outgoing, ...] = ()


class Counts(msgspec.Struct):
    """Messages of a queue: those that can be fetched, and those that somebody holds (None: can't be told)."""

    ready: int
    in_flight: int | None


class Stored(msgspec.Struct):
    """A message in the store: as it would be delivered, and whether somebody holds it.

    `due` is when it leaves its queue by itself, as Unix time; None: it doesn't.
    """

    delivery: Delivery
    held: bool
    due: float | None


class Session(ABC):
    """A session, connected.

    Attributes:
        broker: the one that it is connected to.
        pushes: whether the broker delivers by itself, up to what `consume` and `fetch` have allowed. Then `fetch` has
            to be called whenever something is readable.
    """

    broker: Broker
    pushes: ClassVar[bool]
    _declarer: Declarer

    # Topology

    def declare(self, patience: float | None = None) -> None:
        """Declares what publishers and consumers need. Idempotent.

        Args:
            patience: seconds that it may take in all where a broker has to answer; None: some for each answer.

        Raises:
            BrokerUnavailable: it took longer, or can't be done.
        """
        with translated(self.broker):
            self._declarer.base()

    def declare_work(self, topic: str, service: str, channel: str) -> str:
        """Declares the queues of a subscription. Idempotent.

        Returns:
            The name of the work queue.
        """
        with translated(self.broker):
            return self._declarer.work(topic, service, channel)

    def declare_dead(self, work_queue: str) -> None:
        """Declares where the dead letters of a subscription lie, and not what would collect messages for it."""
        with translated(self.broker):
            self._declarer.dead(work_queue)

    def declare_retry(self, delay: int) -> None:
        """Declares the retry queue of a step of the ladder, once a session. 0 needs none."""
        with translated(self.broker):
            self._declarer.retry(delay)

    def declare_spool(self) -> None:
        """On the engine: declares where a publisher keeps what its broker can't take (`busworker.spool`)."""
        with translated(self.broker):
            self._declarer.spool()

    # Consuming

    @abstractmethod
    def consume(self, queue: str, window: int) -> None:
        """Starts deliveries of a queue; see `fetch`."""

    @abstractmethod
    def listen(self, topic: str, window: int) -> None:
        """As `consume`, of what is published to a topic or pattern from now on, beside those who subscribe to it.

        The queue is this session's own, and goes with it, however it ends. Of what isn't fetched only so much is kept
        (`topology.TAIL_MOST`); the oldest goes.
        """

    def missed(self) -> int | None:
        """Of what was listened to, how many weren't fetched in time, and are gone; None: it can't be told (AMQP)."""
        return None

    @abstractmethod
    def fetch(self, window: int) -> list[Delivery]:
        """What has arrived, without waiting.

        Args:
            window: how many may be unsettled. On the engine no more are claimed. On AMQP the broker delivers no more
                ahead of each queue; each change costs it something, and one to less comes a second later.
        """

    def rest(self) -> None:
        """To be called instead of `fetch` when nothing is wanted, where the broker doesn't push: else what `filenos`
        names may stay readable.
        """
        return

    def cease(self) -> None:
        """Ends deliveries, or has `consume` begin none; may be called again.

        What is under way may still arrive where the broker pushes.
        """
        return

    def resume(self) -> None:
        """Has `fetch` begin deliveries again after `cease`."""
        return

    @abstractmethod
    def submit(self, items: Sequence[Settled]) -> None:
        """Begins to settle, and waits for nothing; `concluded` tells when it is done.

        Raises:
            BrokerUnavailable: on the engine nothing was done, and calling again is right. On AMQP see `is_over`.
        """

    @abstractmethod
    def concluded(self) -> list[int]:
        """The tags of what has been settled since the last call: everything each publishes is stored, and it is
        acknowledged or given back. On the engine that is so as soon as it is submitted.

        What the broker refuses is tried again, after a pause and after everything was declared anew; see `trouble`.

        Raises:
            BrokerUnavailable: the connection is over.
        """

    def stored(self) -> list[int]:
        """Of a session that is over: the tags of what was submitted and is stored, but not acknowledged, or `concluded`
        was not called for. It will come again, and only its acknowledgement is to be repeated.
        """
        return []

    @abstractmethod
    def settle(self, items: Sequence[Settled]) -> None:
        """Settles deliveries, and waits until they are.

        Raises:
            BrokerUnavailable: on the engine nothing was done. On AMQP the copies may be stored, and those not
                acknowledged come back after a reconnect.
        """

    @abstractmethod
    def filenos(self) -> dict[int, bool]:
        """What becomes readable when something arrives, and whether something waits to be written there."""

    @abstractmethod
    def next_due(self) -> float:
        """Seconds after which `fetch` and `concluded` are worth calling even if nothing became readable."""

    @abstractmethod
    def keep_alive(self) -> None:
        """Sends heartbeats and notices a broker that sends none; to be called at least each `next_due` seconds.

        Raises:
            BrokerUnavailable: the broker has been silent for too long.
        """

    @abstractmethod
    def is_over(self) -> bool:
        """Whether only a new session can go on, after an error."""

    @property
    def trouble(self) -> str | None:
        """Why the broker takes not all that is submitted, although it is connected: an alarm, a refusal; else None."""
        return None

    def abandoned(self, queues: Sequence[str]) -> list[str]:
        """On the engine: claim files of pools with claims on these queues and without any process left."""
        return []

    def release(self, claim_file: str) -> None:
        """On the engine: gives back what an abandoned pool had claimed, marked as redelivered. AMQP has no claims."""
        return

    # Publishing

    @abstractmethod
    def publish(self, outgoing: Sequence[Outgoing], patience: float = CONFIRM_TIMEOUT) -> list[BusworkerError | None]:
        """Stores messages, in their order. Waits `patience` seconds for confirms.

        Returns:
            What became of each: None if it is stored. AlreadyStored: one with its id was, so it isn't. EncodeError: it
            can't be sent, and wasn't. TopologyMismatch: nor was this, since what it would wait in differs (AMQP).
            BrokerUnavailable: the broker hasn't confirmed it; it may be stored all the same. On the engine all are
            stored.

        Raises:
            BrokerUnavailable: none was sent, and none is stored.
        """

    def forget(self) -> None:
        """In a forked child, whose session this isn't: gives up its copies of the connections, and tells nobody."""
        return

    # Looking

    @abstractmethod
    def queues(self) -> list[str] | None:
        """The names of all queues; None where a client can't list them (AMQP)."""

    @abstractmethod
    def routed(self, topic: str) -> bool | None:
        """Whether any queue gets what is published to a topic; None where it can't be told."""

    @abstractmethod
    def counts(self, queue: str) -> Counts | None:
        """How many messages a queue holds; None if there is no such queue."""

    @abstractmethod
    def consumers(self, queue: str) -> int:
        """How many consume from a queue, in whatever process; 0 if there is no such queue."""

    @abstractmethod
    def waiting(self, work_queue: str) -> int | None:
        """Messages of a work queue that wait in retry queues; None where it can't be told."""

    def head(self, queue: str) -> Delivery | None:
        """The message that is fetched next; None if there is none, or it can't be seen without taking it (AMQP)."""
        return None

    @abstractmethod
    def browse(self, queue: str, *, limit: int | None = None, newest_first: bool = True) -> Generator[Delivery]:
        """Looks at the messages of a queue; their order, content and counts stay. AMQP always reads from the head.

        On AMQP they are held until the iterator ends or is closed, and nobody else can look meanwhile.

        Raises:
            BrokerUnavailable: on AMQP, also if somebody looks at it for longer than we wait.
        """

    @abstractmethod
    def take(
        self, queue: str, wanted: Callable[[Delivery], bool], limit: int | None, size: int
    ) -> Generator[list[Delivery]]:
        """Holds messages of a queue that are wanted, at most `limit`, in lists of `size`; the rest stays.

        Those that come meanwhile aren't taken, as long as nobody else takes any. Settle a list by its tags before the
        next: what isn't settled when the iterator ends or is closed goes back. On AMQP it is as with `browse`.
        """

    def holding(self, message_id: str) -> list[Stored] | None:
        """Every message with that id, in whatever queue, the oldest first; None where that can't be told (AMQP).

        All the store is read, in short transactions: what moves on meanwhile is found, and may be found twice.
        """
        return None

    def stored_at(self, topic: str, message_id: str) -> float | None:
        """When, as Unix time, a message of which a publisher chose the id was published to a topic, in the last hour.

        None: it wasn't, or that can't be told.
        """
        return None

    # Removing

    @abstractmethod
    def delete(self, queue: str) -> int | None:
        """Removes a queue with its bindings and all its messages.

        Returns:
            How many could be fetched, 0 if there is no such queue. None: it is left, since somebody consumes from it.
            RabbitMQ is asked for that first: who begins just then is cut off.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the connections; what is unsettled goes back. Closing a lost session is fine."""


def open_session(
    url: str,
    *,
    claim_file: str | None = None,
    create: bool = True,
    patience: float = CONNECT_TIMEOUT,
    heartbeats: bool = False,
) -> Session:
    """A session, connected to the first of the brokers that answers.

    Args:
        url: the broker, or several with `;` between.
        claim_file: on the engine, the pool's scoreboard: claims are tied to its lock, and what a dead predecessor
            held comes back at once.
        create: whether an embedded store is made if it doesn't exist.
        patience: seconds that connecting may take, shared by the brokers that are tried.
        heartbeats: whether `keep_alive` will be called; else the broker is asked to expect none.

    Raises:
        BrokerUnavailable: no broker answers, or there is no store.
        ConfigurationError: the URL is wrong or the broker refuses us.
    """
    brokers = parse(url)
    deadline = time.monotonic() + patience
    if brokers[0].embedded:
        from busworker.broker.embedded import EmbeddedSession

        return EmbeddedSession(brokers[0], claim_file=claim_file, create=create)
    from busworker.broker.amqp import AmqpSession

    for left, broker in zip(range(len(brokers), 1, -1), brokers, strict=False):
        try:
            return AmqpSession(broker, patience=(deadline - time.monotonic()) / left, heartbeats=heartbeats)
        except BrokerUnavailable:
            continue
    return AmqpSession(brokers[-1], patience=deadline - time.monotonic(), heartbeats=heartbeats)
