"""What the example's services share: one event a record of a Debian package index."""

from __future__ import annotations

from dataclasses import dataclass

from busworker import Topic


@dataclass(frozen=True)
class PackageSeen:
    """A package that the index offers. `installed_size` is in KiB; 0 if the record doesn't say."""

    package: str
    version: str
    section: str
    installed_size: int


package_seen = Topic("debian.package.seen", PackageSeen)
