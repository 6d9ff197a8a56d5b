-- Ends a task as failed although no run of it failed: it lost too many workers, or cannot be read.
--!include end_record list_ended dead_letter end_events
local function fail_task(dead, fields, task, events, channel, id, reason, error_type)
  dead_letter(dead, fields, id, reason, error_type)
  end_record(task, 'failed', 'task_id', id, 'error', reason, 'error_type', error_type)
  list_ended(task, id, 'failed')
  end_events(events, channel, 'error', reason)
end
