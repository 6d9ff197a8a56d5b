-- Puts tasks on the lists of all tasks, and on that of their queue's; `places` has a time and an id for each. A list
-- that is a key of another type is mended by the next sweep, and the tasks are on the other one. On their queue's list
-- they are put by whoever reconciles, too.
--!include is_spoilt
local function list_tasks(index, by_time, tasks, ids, places)
  -- As many at once as Lua can hand over.
  for first = 1, #ids, 1000 do
    local last = math.min(first + 999, #ids)
    local known = redis.pcall('SADD', index, unpack(ids, first, last))
    local placed = redis.pcall('ZADD', by_time, 'NX', unpack(places, 2 * first - 1, 2 * last))
    for _, reply in ipairs({ known, placed }) do
      if type(reply) == 'table' and not is_spoilt(reply.err) then error(reply) end
    end
    redis.pcall('ZADD', tasks, 'NX', unpack(places, 2 * first - 1, 2 * last))
  end
end
