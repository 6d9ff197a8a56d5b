-- Returns the time as text, epoch seconds.
--!include redis_time
local seconds_text
local function now_seconds()
  seconds_text = seconds_text or string.format('%d.%06d', redis_time()[1], redis_time()[2])
  return seconds_text
end
