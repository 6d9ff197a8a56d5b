#!lua flags=allow-oom
-- Renews the leases of claims that are ours.
-- KEYS  queue
-- ARGV  group, consumer, then for each claim: entry id, deliveries ('' is any)
-- Returns for each claim its delivery count, or 0.
--!include check_fence
local counts = {}
for n = 3, #ARGV, 2 do
  local count = check_fence(KEYS[1], ARGV[1], ARGV[2], ARGV[n], ARGV[n + 1])
  if count then redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[n], 'JUSTID') end
  counts[#counts + 1] = count or 0
end
return counts
