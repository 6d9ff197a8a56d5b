#!lua flags=allow-oom
-- Records how a task that Temporal owns has ended. Sending it again is harmless.
-- KEYS  task hash
-- ARGV  run id of the workflow, number of its last run, status, task id, then field, value, … to set
-- Returns { status that stands (or 'lost' where a later run has begun), attempt, whether it was recorded under this
-- run, and whether by this call }.
--!include temporal_run is_terminal now_seconds temporal_fence TASK_TTL read_record count_of
local task = KEYS[1]
local run, number, status, id = unpack(ARGV, 1, 4)
local known = read_record(task, 'status', 'fence', 'attempt', 'completed_at')
local attempt = count_of(known[3])
local last = temporal_run(known[2], run)
if is_terminal(known[1]) then
  -- A 0.1 client cancels by writing the status alone.
  if not known[4] then redis.call('HSET', task, 'completed_at', now_seconds()) end
  return { known[1], attempt, last == tonumber(number) and 1 or 0, known[4] and 0 or 1 }
end
if last > tonumber(number) then return { 'lost', attempt, 0, 0 } end
redis.call('HSET', task, 'task_id', id, 'status', status, 'completed_at', now_seconds(),
  'fence', temporal_fence(run, number), unpack(ARGV, 5))
redis.call('EXPIRE', task, TASK_TTL)
return { status, attempt, 1, 1 }
