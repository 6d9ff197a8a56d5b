#!lua flags=allow-oom
-- Gives a turn to one worker for some time, while nobody has it. A turn that never ends, or later than any that a
-- worker takes, is nobody's: else one command that sets it would end all turns.
-- KEYS  whose turn it is
-- ARGV  worker id, ms
-- Returns 1 if it is this worker's turn, 0 while it is another's.
local LONGEST = 3600000
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left <= LONGEST then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
