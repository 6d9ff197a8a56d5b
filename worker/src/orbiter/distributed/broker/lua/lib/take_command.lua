-- Returns the command that an operator left for a worker, once; or nil.
local function take_command(worker)
  local command = redis.call('HGET', worker, 'wanted')
  if command then redis.call('HDEL', worker, 'wanted') end
  return command
end
