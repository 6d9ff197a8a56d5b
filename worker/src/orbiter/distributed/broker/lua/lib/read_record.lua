-- Returns fields of a task's record as HMGET does. A key of another type there is no record, and is removed.
--!include is_spoilt
local function read_record(task, ...)
  local values = redis.pcall('HMGET', task, ...)
  if not values.err then return values end
  if not is_spoilt(values.err) then error(values) end
  redis.call('DEL', task)
  return redis.call('HMGET', task, ...)
end
