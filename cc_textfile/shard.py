"""How the channels of a large account are divided among pollers."""

import hashlib
from typing import NamedTuple


class Shard(NamedTuple):
    """One part of the channels: `number` (from 1) of `total`."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def has(self, channel: str) -> bool:
        """Tell whether the channel is in this shard: the same on every host, unlike `hash`."""
        digest = hashlib.sha256(channel.encode()).digest()
        return int.from_bytes(digest[:8]) % self.total == self.number - 1
