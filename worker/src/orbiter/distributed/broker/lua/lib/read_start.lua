-- Returns the fields of a record by which start_task decides.
--!include read_record
local function read_start(task)
  return read_record(task, 'status', 'cancel_requested_at', 'completed_at', 'fence', 'crashes', 'retries', 'attempt',
    'executor', 'alone')
end
