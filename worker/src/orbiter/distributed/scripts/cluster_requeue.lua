#!lua
-- Runs a task that failed once more in a cluster, last step: from the dead letters to the queue.
-- KEYS  queue, {queue}:dead
-- ARGV  entry id of the dead letter
-- Returns 1, or 0 where it is gone.
local fields = payload_of(KEYS[2], ARGV[1])
if not fields then return 0 end
requeue(KEYS[1], fields)
redis.call('XDEL', KEYS[2], ARGV[1])
return 1
