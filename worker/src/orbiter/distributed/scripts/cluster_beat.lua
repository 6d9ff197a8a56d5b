#!lua flags=allow-oom
-- A worker's heartbeat in a cluster, first step: its hash.
-- KEYS  worker hash
-- ARGV  ttl seconds, then field, value, …
-- Returns { now (ms), what somebody wants the worker to do, or nothing }.
local wanted = redis.call('HGET', KEYS[1], 'wanted')
if wanted then redis.call('HDEL', KEYS[1], 'wanted') end
redis.call('HSET', KEYS[1], 'last_heartbeat', now_seconds(), unpack(ARGV, 2))
redis.call('HSETNX', KEYS[1], 'started_at', now_seconds())
redis.call('EXPIRE', KEYS[1], ARGV[1])
return { now_ms(), wanted }
