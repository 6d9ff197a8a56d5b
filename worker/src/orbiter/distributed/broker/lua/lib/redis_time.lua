-- Returns Redis' own clock: hosts' clocks decide nothing. It stands still during a call, so it is read once.
local clock
local function redis_time()
  clock = clock or redis.call('TIME')
  return clock
end
