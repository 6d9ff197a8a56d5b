"""Redis URLs, for programs that check or mask one themselves: the public path to ``connection.redis_url``."""

from orbiter.distributed.connection.redis_url import RedisUrlError, check, connect, connect_sync, mask

__all__ = ["RedisUrlError", "check", "connect", "connect_sync", "mask"]
