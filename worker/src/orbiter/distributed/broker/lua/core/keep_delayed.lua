#!lua flags=allow-oom
-- Gives a delayed task that has lost its place, but whose payload is kept, a place again.
-- KEYS  {queue}:delayed, {queue}:parked
-- ARGV  task id, when it is due (ms)
-- Returns 1, or 0 where no payload is kept.
if not redis.call('HGET', KEYS[2], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[1])
return 1
