-- Records that a task runs from now on.
--!include now_seconds
local function run_task(task, fence, consumer, attempt)
  redis.call('HSET', task, 'status', 'running', 'worker_id', consumer, 'started_at', now_seconds(), 'fence', fence,
    'attempt', attempt)
end
