#!lua flags=allow-oom
-- Cancels a task in a cluster, last step: it waits no more.
-- KEYS  {queue}:delayed, {queue}:parked
-- ARGV  task id
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
