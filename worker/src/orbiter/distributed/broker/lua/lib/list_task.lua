-- Puts a task on the lists of all tasks, and on that of its queue's. A list that is a key of another type is mended by
-- the next sweep, and the task is on the other one. On its queue's list it is put by whoever reconciles, too.
--!include is_spoilt
local function list_task(index, by_time, tasks, id, at)
  local known, placed = redis.pcall('SADD', index, id), redis.pcall('ZADD', by_time, 'NX', at, id)
  for _, reply in ipairs({ known, placed }) do
    if type(reply) == 'table' and not is_spoilt(reply.err) then error(reply) end
  end
  redis.pcall('ZADD', tasks, 'NX', at, id)
end
