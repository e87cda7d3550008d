"""Telling the bus of an account, once it is committed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial

from django.db import transaction

from busworker import Bus, PublishFailed, Topic
from signup.models import Account

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UserRegistered:
    """Somebody has signed up."""

    account: int
    email: str


user_registered = Topic("user.registered", UserRegistered)
bus = Bus("signup", publish_deadline=4)  # opens nothing yet: each process does at its first publish


def announce_when_committed(account: Account) -> None:
    """Publishes once the transaction is committed, and not at all if it is rolled back."""
    transaction.on_commit(partial(announce, account))


def announce(account: Account) -> bool:
    """Publishes and waits for the broker's word. Whoever isn't announced now is by `manage.py announce`, later."""
    event = UserRegistered(account.pk, account.email)
    # Always the same id: if the first message was stored after all, handlers can tell that they had it.
    receipt = bus.publish(user_registered, event, id=f"account-{account.pk}")
    try:
        receipt.wait()
    except PublishFailed as error:
        log.error("account %d is not announced (%s): %s", account.pk, receipt.state, error)
        return False
    Account.objects.filter(pk=account.pk).update(announced=True)
    return True
