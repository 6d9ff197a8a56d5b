#!lua flags=allow-oom
-- Removes a worker's consumer, if nothing is pending on it.
-- KEYS  queue
-- ARGV  group, worker id
local rows = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])
if not rows.err and #rows == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
return 1
