#!lua flags=allow-oom
-- A worker's heartbeat.
-- KEYS  worker hash, zset of workers
-- ARGV  worker id, ttl seconds, life, the life that it may replace, then field, value, …
-- Returns the command that an operator left for it ('drain', 'quiet' or 'resume'), once; or nil. Where the id is
-- another life's, what write_heartbeat returns.
--!include write_heartbeat now_ms FLEET_TTL take_command
local taken = write_heartbeat(KEYS[1], 2)
if taken then return taken end
redis.call('ZADD', KEYS[2], now_ms(), ARGV[1])
redis.call('EXPIRE', KEYS[2], FLEET_TTL)
return take_command(KEYS[1])
