-- Records how a task has ended; further fields and values may follow.
--!include ENDED_TTL now_seconds
local function end_record(task, status, ...)
  redis.call('HSET', task, 'status', status, 'completed_at', now_seconds(), ...)
  redis.call('EXPIRE', task, ENDED_TTL)
end
