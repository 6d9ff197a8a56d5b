-- Moves one of a queue's keys aside that is of no use as it is, for a person to look at: {queue}:broken:TIME, and what
-- it was. It is noted in {queue}:broken, for the next worker that mends to report.
--!include now_ms BROKEN_TTL
local function move_aside(key)
  -- {queue}:what; in a namespace in braces {namespace}:{name}:what, where the queue itself is {namespace}:name.
  local queue, what = string.match(key, '^({[^}]*:[^}]*}):(%w+)$')
  if not queue then queue, what = string.match(key, '^({[^}]*}:{[^}]*}):(%w+)$') end
  if not queue then
    local namespace, name = string.match(key, '^({[^}]*}):(.+)$')
    queue = namespace and namespace .. ':{' .. name .. '}' or '{' .. key .. '}'
  end
  local notes = queue .. ':broken'
  local aside = notes .. ':' .. string.format('%d', now_ms()) .. (what and ':' .. what or '')
  redis.call('RENAME', key, aside)
  redis.call('EXPIRE', aside, BROKEN_TTL)
  redis.pcall('HSET', notes, aside, key)
  redis.call('EXPIRE', notes, BROKEN_TTL)
end
