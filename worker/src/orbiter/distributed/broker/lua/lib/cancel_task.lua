-- Records a task as cancelled, and ends its events.
--!include end_record end_events
local function cancel_task(task, events, channel, id)
  end_record(task, 'cancelled', 'task_id', id)
  end_events(events, channel, 'cancelled', 'Task ' .. id .. ' cancelled')
end
