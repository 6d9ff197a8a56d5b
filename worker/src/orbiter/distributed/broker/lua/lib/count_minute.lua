-- Adds to the minute of now, in the ring of a queue's last day, what a worker counted since its heartbeat before:
-- whole numbers with spaces between, or ''. A place of the ring holds the minute since 1970, the most tasks that waited
-- in it, then sums of the counts; that of the day before begins anew.
-- A key of another type is made anew. Where this user may not use it, as by the rights of an earlier release, nothing
-- is counted: no heartbeat depends on it.
--!include now_ms MINUTES MINUTES_TTL
local function count_minute(minutes, queue, group, counts)
  local minute = math.floor(now_ms() / 60000)
  local known = redis.pcall('HGET', minutes, minute % MINUTES)
  if type(known) == 'table' then
    if not string.find(known.err, 'WRONGTYPE', 1, true) then return end
    redis.call('DEL', minutes)
    known = false
  end
  local sums, length, pending = { 0 }, redis.pcall('XLEN', queue), redis.pcall('XPENDING', queue, group)
  if type(length) == 'number' and not pending.err then sums[1] = math.max(0, length - pending[1]) end
  for count in string.gmatch(counts, '%d+') do sums[#sums + 1] = tonumber(count) end
  local stamp, before = string.match(known or '', '^(%d+) ([%d ]+)$')
  if tonumber(stamp) == minute then
    local at = 0
    for text in string.gmatch(before, '%d+') do
      at = at + 1
      -- No count has so many digits.
      local sum = #text <= 15 and tonumber(text) or 0
      sums[at] = at == 1 and math.max(sum, sums[1]) or sum + (sums[at] or 0)
    end
  end
  for at, sum in ipairs(sums) do sums[at] = string.format('%.0f', sum) end
  redis.call('HSET', minutes, minute % MINUTES, string.format('%.0f ', minute) .. table.concat(sums, ' '))
  redis.call('EXPIRE', minutes, MINUTES_TTL)
end
