"""What several tests share: waiting, a home of one's own, the command as a subprocess, RabbitMQ nodes."""

from tests.support.command import Command, Service
from tests.support.home import Home
from tests.support.processes import Member, alive
from tests.support.stage import Stage
from tests.support.waiting import wait_until

__all__ = ["Command", "Home", "Member", "Service", "Stage", "alive", "wait_until"]
