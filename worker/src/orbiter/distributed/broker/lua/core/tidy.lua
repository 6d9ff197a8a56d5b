#!lua flags=allow-oom
-- Removes what nobody needs any more beside the queue.
-- KEYS  queue, {queue}:dead
-- ARGV  group, age of the oldest dead letter to keep (ms), then consumers without a heartbeat
-- Returns { consumers removed, entries trimmed }.
--!include now_ms
local queue, group = KEYS[1], ARGV[1]
local gone = 0
for n = 3, #ARGV do
  -- Removing a consumer that has pending entries would lose them.
  if #redis.call('XPENDING', queue, group, '-', '+', 1, ARGV[n]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', queue, group, ARGV[n])
    gone = gone + 1
  end
end

-- 0.1 workers acknowledge without deleting. What lies before the first entry that anybody still needs goes: the oldest
-- pending one of each group or, without any, the one after the last delivered.
local needed
local function before(a, b)
  local a_ms, a_seq = string.match(a, '(%d+)%-(%d+)')
  local b_ms, b_seq = string.match(b, '(%d+)%-(%d+)')
  if a_ms ~= b_ms then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_seq) < tonumber(b_seq)
end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', queue)) do
  local values = {}
  for i = 1, #info, 2 do values[info[i]] = info[i + 1] end
  local first = redis.call('XPENDING', queue, values['name'])[2]
  if not first then
    local ms, seq = string.match(values['last-delivered-id'], '(%d+)%-(%d+)')
    first = ms .. '-' .. string.format('%d', seq + 1)
  end
  if not needed or before(first, needed) then needed = first end
end
local trimmed = needed and redis.call('XTRIM', queue, 'MINID', needed) or 0
redis.call('XTRIM', KEYS[2], 'MINID', math.max(0, now_ms() - ARGV[2]))
return { gone, trimmed }
