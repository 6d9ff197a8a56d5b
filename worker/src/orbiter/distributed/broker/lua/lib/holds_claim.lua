-- Tells whether a claim is this consumer's: by the pending list, or else by the record. An entry that was trimmed or
-- deleted during the run drops out of that list; while the record names the claim nobody else can have it.
-- `known` are status and fence of the record, or nil where they are still to be read.
--!include check_fence fence_of read_record
local function holds_claim(queue, group, consumer, entry, deliveries, task, known)
  if check_fence(queue, group, consumer, entry, deliveries) then return true end
  known = known or read_record(task, 'status', 'fence')
  if known[1] ~= 'running' or known[2] ~= fence_of(entry, deliveries, consumer) then return false end
  local rows = redis.pcall('XPENDING', queue, group, entry, entry, 1)
  if not rows.err and #rows > 0 then return false end
  rows = redis.pcall('XRANGE', queue, entry, entry)
  return rows.err ~= nil or #rows == 0
end
