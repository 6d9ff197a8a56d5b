#!lua flags=allow-oom
-- A worker leaves in order: its heartbeat, its row in the fleet and, if nothing is pending on it, its consumer go.
-- KEYS  queue, worker hash, orbiter:fleet
-- ARGV  group, worker id
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[2])
local rows = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if not rows.err and #rows == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return 1
