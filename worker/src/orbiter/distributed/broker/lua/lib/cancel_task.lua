-- Records a task as cancelled, and ends its events.
--!include ENDED_TTL now_seconds end_events
local function cancel_task(task, events, channel, id)
  redis.call('HSET', task, 'task_id', id, 'status', 'cancelled', 'completed_at', now_seconds())
  redis.call('EXPIRE', task, ENDED_TTL)
  end_events(events, channel, 'cancelled', 'Task ' .. id .. ' cancelled')
end
