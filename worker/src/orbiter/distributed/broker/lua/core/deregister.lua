#!lua flags=allow-oom
-- Deregisters a worker that stops in order: deletes its heartbeat, its row in the fleet and, if nothing is pending on
-- it, its consumer. What it counted since its last heartbeat counts, too.
-- KEYS  queue, worker hash, zset of workers, {queue}:minutes, {queue}:usage: (of which the days are)
-- ARGV  group, worker id, life, number of the counts, counts ('': none), usage (likewise)
-- Does nothing where the id is another life's by now.
--!include count_minute new_counts add_usage
if (redis.call('HGET', KEYS[2], 'life') or ARGV[3]) ~= ARGV[3] then return 0 end
local counts, usage = new_counts(KEYS[2], ARGV[4], ARGV[5], ARGV[6])
if counts ~= '' then count_minute(KEYS[4], KEYS[1], ARGV[1], counts) end
add_usage(KEYS[5], usage)
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[2])
local rows = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if not rows.err and #rows == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return 1
