"""AMQP 0-9-1 on py-amqp, with reading and writing of our own where it matters.

py-amqp connects, opens channels and declares. What comes and goes for each message is ours: `codec` (properties and
tables), `frames` (frames put together), `wire` (a socket that is never waited for), `connection` (all of it together).
So no message can stop a consumer by what is in its properties, a broker that doesn't read blocks nobody, and a message
takes a fraction of the time.
"""

from __future__ import annotations

from kombu.transport import pyamqp

from busworker.transports.amqp.connection import Connection


class AmqpTransport(pyamqp.Transport):
    """kombu's transport, with our connection."""

    Connection = Connection
