#!lua flags=allow-oom
-- Records that a task which Temporal owns runs alone in its executor process from now on: one died with it, and with
-- others in it. Sending it again is harmless.
-- KEYS  task hash
-- ARGV  run id of the workflow, number of the run
-- Returns whether that is recorded: not where a later run has begun.
--!include temporal_fence read_record
local task = KEYS[1]
local known = read_record(task, 'fence', 'alone')
if known[1] ~= temporal_fence(ARGV[1], ARGV[2]) then return 0 end
-- Never lowered: what has cost workers runs alone in one.
if known[2] ~= 'worker' then redis.call('HSET', task, 'alone', 'child') end
return 1
