#!lua flags=allow-oom
-- Deregisters a worker that stops in order: deletes its heartbeat, its row in the fleet and, if nothing is pending on
-- it, its consumer.
-- KEYS  queue, worker hash, zset of workers
-- ARGV  group, worker id, life
-- Does nothing where the id is another life's by now.
if (redis.call('HGET', KEYS[2], 'life') or ARGV[3]) ~= ARGV[3] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[2])
local rows = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if not rows.err and #rows == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return 1
