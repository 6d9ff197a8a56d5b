-- Moves one of a queue's keys aside that is of no use as it is, for a person to look at: {queue}:broken:TIME, and what
-- it was. Returns the new name.
--!include now_ms BROKEN_TTL
local function move_aside(key)
  local queue, what = string.match(key, '^{(.+)}(:[^:]+)$')
  local aside = '{' .. (queue or key) .. '}:broken:' .. string.format('%d', now_ms()) .. (what or '')
  redis.call('RENAME', key, aside)
  redis.call('EXPIRE', aside, BROKEN_TTL)
  return aside
end
