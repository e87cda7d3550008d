"""Accounts, each with a name of its own, and whether the bus knows of it."""

from django.db import models


class Account(models.Model):
    """Somebody who has signed up. `announced` says that `user.registered` is stored on the bus."""

    email = models.EmailField(unique=True)
    announced = models.BooleanField(default=False)


class Nickname(models.Model):
    """A name that only one account can have."""

    name = models.CharField(max_length=40, primary_key=True)
    account = models.ForeignKey(Account, on_delete=models.CASCADE)
