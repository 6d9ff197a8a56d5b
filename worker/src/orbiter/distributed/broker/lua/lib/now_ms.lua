-- Returns the time as a number, epoch milliseconds.
--!include redis_time
local function now_ms()
  return redis_time()[1] * 1000 + math.floor(redis_time()[2] / 1000)
end
