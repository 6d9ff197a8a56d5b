-- Moves one of a queue's keys aside that is of no use as it is, for a person to look at: {queue}:broken:TIME, and what
-- it was. It is noted in {queue}:broken, for the next worker that mends to report.
--!include now_ms BROKEN_TTL
local function move_aside(key)
  local queue, what = string.match(key, '^{(.+)}(:[^:]+)$')
  local notes = '{' .. (queue or key) .. '}:broken'
  local aside = notes .. ':' .. string.format('%d', now_ms()) .. (what or '')
  redis.call('RENAME', key, aside)
  redis.call('EXPIRE', aside, BROKEN_TTL)
  redis.pcall('HSET', notes, aside, key)
  redis.call('EXPIRE', notes, BROKEN_TTL)
end
