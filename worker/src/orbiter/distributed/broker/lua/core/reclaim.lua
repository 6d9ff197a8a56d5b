#!lua flags=allow-oom
-- Claims entries whose owner has not renewed them for its lease.
-- KEYS  queue
-- ARGV  group, consumer, count, then for each owner: name, lease ms
-- Returns entries as XREADGROUP does.
local queue, group, consumer, count = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local claimed = {}
for n = 4, #ARGV, 2 do
  if #claimed >= count then break end
  local rows = redis.call('XPENDING', queue, group, 'IDLE', ARGV[n + 1], '-', '+', count - #claimed, ARGV[n])
  for _, row in ipairs(rows) do
    local got = redis.call('XCLAIM', queue, group, consumer, ARGV[n + 1], row[1])
    if got[1] then claimed[#claimed + 1] = got[1] end
  end
end
return claimed
