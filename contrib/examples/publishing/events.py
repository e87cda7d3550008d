"""The events that services share: topics belong to no service."""

from __future__ import annotations

from dataclasses import dataclass

from busworker import Topic


@dataclass(frozen=True)
class UserRegistered:
    """Somebody has signed up."""

    email: str


@dataclass(frozen=True)
class PageSeen:
    """Somebody has looked at a page."""

    page: str


user_registered = Topic("user.registered", UserRegistered)
page_seen = Topic("page.seen", PageSeen)
