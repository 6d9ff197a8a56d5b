#!lua flags=no-writes
-- Tells of tasks whether the queue still holds them.
-- KEYS  queue, {queue}:delayed
-- ARGV  group, bytes to read at most, then for each task: its id, and two ids of entries that may be its ('' where
--       unknown)
-- Returns for each task 1 or 0; for fewer tasks where that many bytes were read.
--!include queue_holds
local left, held = tonumber(ARGV[2]), {}
for n = 3, #ARGV, 3 do
  if left < 0 then break end
  local found, read = queue_holds(KEYS[1], KEYS[2], ARGV[1], ARGV[n], { ARGV[n + 1], ARGV[n + 2] })
  held[#held + 1] = found and 1 or 0
  left = left - read
end
return held
