#!lua
-- Runs a task that failed once more in a cluster, last step: from the dead letters to the queue.
-- KEYS  queue, {queue}:dead
-- ARGV  entry id of the dead letter
-- Returns the id of the new entry, or nil where the letter is gone.
--!include entry_fields requeue_dead_letter
local fields = entry_fields(KEYS[2], ARGV[1])
if not fields then return nil end
local entry = requeue_dead_letter(KEYS[1], fields)
redis.call('XDEL', KEYS[2], ARGV[1])
return entry
