#!lua flags=allow-oom
-- Says which claims are ours; renews their leases where that is wanted.
-- KEYS  queue
-- ARGV  group, consumer, '1' to renew, then for each claim: entry id, deliveries ('' is any)
-- Returns for each claim its delivery count, or 0.
local counts = {}
for n = 4, #ARGV, 2 do
  local count = owned(KEYS[1], ARGV[1], ARGV[2], ARGV[n], ARGV[n + 1])
  if count and ARGV[3] == '1' then redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[n], 'JUSTID') end
  counts[#counts + 1] = count or 0
end
return counts
