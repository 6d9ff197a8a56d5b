-- Adds an entry to a task's event stream. A key of another type there, or a stream that can take no more, is removed.
--!include is_spoilt
local function add_row(events, ...)
  local added = redis.pcall('XADD', events, ...)
  if type(added) ~= 'table' then return end
  if not is_spoilt(added.err) then error(added) end
  redis.call('DEL', events)
  redis.call('XADD', events, ...)
end
