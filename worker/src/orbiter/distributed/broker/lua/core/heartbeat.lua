#!lua flags=allow-oom
-- A worker's heartbeat, with what it counted since the one before.
-- KEYS  worker hash, zset of workers, queue, {queue}:minutes, {queue}:usage: (of which the days are)
-- ARGV  worker id, group, number of the counts, counts ('': none), usage (likewise), ttl seconds, life, the life that
--       it may replace, then field, value, …
-- Returns the command that an operator left for it ('drain', 'quiet' or 'resume'), once; or nil. Where the id is
-- another life's, what write_heartbeat returns.
--!include write_heartbeat now_ms FLEET_TTL take_command count_minute new_counts add_usage
local taken = write_heartbeat(KEYS[1], 6)
if taken then return taken end
redis.call('ZADD', KEYS[2], now_ms(), ARGV[1])
redis.call('EXPIRE', KEYS[2], FLEET_TTL)
local counts, usage = new_counts(KEYS[1], ARGV[3], ARGV[4], ARGV[5])
count_minute(KEYS[4], KEYS[3], ARGV[2], counts)
add_usage(KEYS[5], usage)
return take_command(KEYS[1])
