-- Ends a task as failed although no run of it failed: it lost too many workers, or cannot be read.
--!include ENDED_TTL now_seconds dead_letter end_events
local function fail_task(dead, fields, task, events, channel, id, reason, error_type)
  dead_letter(dead, fields, id, reason, error_type)
  redis.call('HSET', task, 'task_id', id, 'status', 'failed', 'error', reason, 'error_type', error_type,
    'completed_at', now_seconds())
  redis.call('EXPIRE', task, ENDED_TTL)
  end_events(events, channel, 'error', reason)
end
