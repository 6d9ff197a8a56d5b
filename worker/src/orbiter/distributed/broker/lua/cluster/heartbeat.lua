#!lua flags=allow-oom
-- A worker's heartbeat in a cluster, first step: its hash.
-- KEYS  worker hash
-- ARGV  ttl seconds, life, the life that it may replace, then field, value, …
-- Returns { now (ms), the command that an operator left for it, or nothing }. Where the id is another life's, what
-- write_heartbeat returns.
--!include write_heartbeat now_ms take_command
return write_heartbeat(KEYS[1], 1) or { now_ms(), take_command(KEYS[1]) }
