#!lua flags=allow-oom
-- Gives a turn to one worker for some time, while nobody has it. A turn that never ends, or later than any that a
-- worker takes, is nobody's: else one command that sets it would end all turns.
-- KEYS  whose turn it is
-- ARGV  worker id, ms
-- Returns 1 if it is this worker's turn, 0 while it is another's.
local LONGEST = 3600000
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
-- PTTL would tell it, too, and the rules of earlier releases have no such right.
if redis.call('PEXPIRE', KEYS[1], LONGEST, 'LT') == 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
