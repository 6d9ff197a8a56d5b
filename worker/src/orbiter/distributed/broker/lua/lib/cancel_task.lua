-- Records a task as cancelled, and ends its events.
--!include end_record list_ended end_events
local function cancel_task(task, events, channel, id)
  end_record(task, 'cancelled', 'task_id', id)
  list_ended(task, id, 'cancelled')
  end_events(events, channel, 'cancelled', 'Task ' .. id .. ' cancelled')
end
