-- Puts a task on the list of those that have ended, by its status and the time of that: a status is a range of
-- scores, wider than any time. Where that cannot be, as with a key of another type, or the rights of an earlier
-- release, the task is listed by whoever reconciles or not at all: no outcome depends on it. The list's name is made
-- from the task's: a cluster lists in a step of its own.
--!include now_ms
local function list_ended(task, id, status)
  local range = ({ completed = 0, failed = 1, cancelled = 2 })[status]
  redis.pcall('ZADD', string.match(task, '^[^:]*') .. ':task:ended', string.format('%.0f', range * 1e13 + now_ms()), id)
end
