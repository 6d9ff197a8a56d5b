#!lua flags=allow-oom
-- Sends a worker a command, if it lives: in its hash, where its heartbeat finds it, and at once on its channel.
-- KEYS  worker hash
-- ARGV  command ('drain', 'quiet' or 'resume'), control channel
-- Returns 'asked', 'draining' (it leaves already, nothing was written), 'outdated' (0.1 hears nobody) or 'absent'.
local known = redis.call('HMGET', KEYS[1], 'last_heartbeat', 'version', 'state')
-- Writing to an expired hash would make one that never expires.
if not known[1] then return 'absent' end
if not known[2] then return 'outdated' end
if known[3] == 'draining' then return 'draining' end
redis.call('HSET', KEYS[1], 'wanted', ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 'asked'
