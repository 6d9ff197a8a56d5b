-- The claim is ours while the group's pending list says so: same entry, same consumer, same delivery count. This is the
-- fence: a worker that was presumed dead finds its claim gone and changes nothing.
-- Returns the delivery count, or nil. `deliveries` may be nil or '': any count will do.
local function check_fence(queue, group, consumer, entry, deliveries)
  local rows = redis.pcall('XPENDING', queue, group, entry, entry, 1, consumer)
  if rows.err or #rows == 0 then return nil end
  local count = rows[1][4]
  if deliveries and deliveries ~= '' and tonumber(deliveries) ~= count then return nil end
  return count
end
