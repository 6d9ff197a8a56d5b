-- Takes a task off the delayed ones, if it is there.
local function unpark(delayed, parked, id)
  redis.pcall('ZREM', delayed, id)
  redis.pcall('HDEL', parked, id)
end
