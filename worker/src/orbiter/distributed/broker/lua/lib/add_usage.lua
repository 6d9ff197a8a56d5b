-- Adds tokens that were paid to those of this day (UTC) and queue: `prefix` and the day since 1970 are the key. `rows`
-- is JSON: for each model and agent, as JSON themselves, requests, tokens in, tokens out; '' where there are none.
-- A hash of a day has 900 of these at most; all others are one. No heartbeat depends on it.
--!include now_ms USAGE_TTL
local function add_usage(prefix, rows)
  if rows == '' then return end
  local day = prefix .. string.format('%d', math.floor(now_ms() / 86400000))
  local size = redis.pcall('HLEN', day)
  if type(size) == 'table' then
    if not string.find(size.err, 'WRONGTYPE', 1, true) then return end
    redis.call('DEL', day)
    size = 0
  end
  for _, row in ipairs(cjson.decode(rows)) do
    local label = row[1]
    if size >= 2700 and not redis.call('HGET', day, label .. ' requests') then label = '["(other)","(other)"]' end
    for at, what in ipairs({ 'requests', 'input', 'output' }) do
      redis.pcall('HINCRBY', day, label .. ' ' .. what, string.format('%.0f', row[at + 1]))
    end
    size = size + 3
  end
  redis.call('EXPIRE', day, USAGE_TTL)
end
