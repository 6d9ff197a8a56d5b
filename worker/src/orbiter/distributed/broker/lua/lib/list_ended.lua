-- Puts a task on the list of those that ended so, by the time of their end. Where that cannot be, as with a key of
-- another type, or the rights of an earlier release, the task is listed by whoever reconciles or not at all: no outcome
-- depends on it. The list's name is made from the task's: a cluster lists in a step of its own.
--!include now_ms
local function list_ended(task, id, status)
  redis.pcall('ZADD', string.match(task, '^[^:]*') .. ':ended:' .. status, now_ms(), id)
end
