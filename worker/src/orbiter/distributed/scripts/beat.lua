#!lua flags=allow-oom
-- A worker's heartbeat.
-- KEYS  worker hash, orbiter:fleet
-- ARGV  worker id, ttl seconds, then field, value, …
-- Returns what somebody wants the worker to do ('drain', 'quiet' or 'resume'), once; or nil.
local wanted = redis.call('HGET', KEYS[1], 'wanted')
if wanted then redis.call('HDEL', KEYS[1], 'wanted') end
redis.call('HSET', KEYS[1], 'last_heartbeat', now_seconds(), unpack(ARGV, 3))
redis.call('HSETNX', KEYS[1], 'started_at', now_seconds())
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], now_ms(), ARGV[1])
redis.call('EXPIRE', KEYS[2], 86400)
return wanted
