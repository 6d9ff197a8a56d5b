-- Does something for one entry, claim or record, so that what is broken about it hurts no other: returns what `work`
-- does; or `spoilt` and the error, where stored data made it fail. Other errors are the whole call's.
--!include is_spoilt
local function each(spoilt, work, ...)
  local done, found = pcall(work, ...)
  if done then return found end
  if not is_spoilt(found) then error({ err = found }) end
  return spoilt, found
end
