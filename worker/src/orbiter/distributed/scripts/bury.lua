#!lua flags=allow-oom
-- Moves an entry that is not a task, and names none, to the dead letters.
-- KEYS  queue, {queue}:dead
-- ARGV  group, consumer, entry id, reason
-- Returns 1, or 0 where the claim is another's.
if not owned(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
bury(KEYS[2], payload_of(KEYS[1], ARGV[3]), '', ARGV[4], 'InvalidPayloadError')
drop_entry(KEYS[1], ARGV[1], ARGV[3])
return 1
