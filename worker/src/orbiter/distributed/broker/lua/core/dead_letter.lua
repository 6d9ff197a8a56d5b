#!lua flags=allow-oom
-- Makes a dead letter of an entry that is not a task, and names none.
-- KEYS  queue, {queue}:dead
-- ARGV  group, consumer, entry id, reason
-- Returns 1, or 0 where the claim is another's.
--!include check_fence dead_letter entry_fields drop_entry
if not check_fence(KEYS[1], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
dead_letter(KEYS[2], entry_fields(KEYS[1], ARGV[3]), '', ARGV[4], 'InvalidPayloadError')
drop_entry(KEYS[1], ARGV[1], ARGV[3])
return 1
