#!lua flags=allow-oom
-- Returns the queue's own id, which tells it from queues of that name in other Redis servers. Sending it again is
-- harmless.
-- KEYS  {queue}:id
-- ARGV  the id that it gets where it has none
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
