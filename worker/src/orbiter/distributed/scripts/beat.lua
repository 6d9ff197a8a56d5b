#!lua flags=allow-oom
-- A worker's heartbeat.
-- KEYS  worker hash, orbiter:fleet
-- ARGV  worker id, ttl seconds, then field, value, …
redis.call('HSET', KEYS[1], 'last_heartbeat', now_seconds(), unpack(ARGV, 3))
redis.call('HSETNX', KEYS[1], 'started_at', now_seconds())
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], now_ms(), ARGV[1])
redis.call('EXPIRE', KEYS[2], 86400)
return 1
