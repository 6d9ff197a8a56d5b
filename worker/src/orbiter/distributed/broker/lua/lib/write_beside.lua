-- Writes to a key beside the queue: its dead letters, its delayed tasks, their payloads. A key of another type there,
-- or a stream that can take no more, is moved aside first.
--!include is_spoilt move_aside
local function write_beside(command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not is_spoilt(reply.err) then error(reply) end
  move_aside(key)
  return redis.call(command, key, ...)
end
