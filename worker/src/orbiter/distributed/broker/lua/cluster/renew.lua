#!lua flags=allow-oom
-- Renews the leases of claims that are ours.
-- KEYS  queue
-- ARGV  group, consumer, then for each claim: entry id, deliveries ('' is any)
-- Returns for each claim its delivery count; 0 where it is another's; -1 where its entry is gone, and with it the
-- claim.
--!include check_fence each
local queue, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local function renew(n)
  local entry = ARGV[n]
  local count = check_fence(queue, group, consumer, entry, ARGV[n + 1])
  if count then
    local claimed = redis.call('XCLAIM', queue, group, consumer, 0, entry, 'JUSTID')
    return #claimed > 0 and count or -1
  end
  local rows = redis.pcall('XPENDING', queue, group, entry, entry, 1)
  if not rows.err and #rows > 0 then return 0 end
  return #redis.call('XRANGE', queue, entry, entry) == 0 and -1 or 0
end

local counts = {}
for n = 3, #ARGV, 2 do counts[#counts + 1] = each(-1, renew, n) end
return counts
