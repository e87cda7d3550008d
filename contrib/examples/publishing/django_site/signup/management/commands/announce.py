"""`manage.py announce`, for cron: publishes what couldn't be published when it was committed."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from signup.announcing import announce
from signup.models import Account


class Command(BaseCommand):
    """Announces all accounts of which the bus may not know; exits with 1 if there are some left."""

    def handle(self, *args: Any, **options: Any) -> None:
        waiting = Account.objects.filter(announced=False)
        left = [account.pk for account in waiting if not announce(account)]
        if left:
            raise CommandError(f"{len(left)} account(s) are still not announced")
