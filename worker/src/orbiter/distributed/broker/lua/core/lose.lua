#!lua flags=allow-oom
-- Settles a run whose process died, while its worker lives on: the task runs again, alone, from the queue's end; or it
-- fails, as it has lost too many runs.
-- KEYS  queue, {queue}:dead, task hash, event stream
-- ARGV  group, consumer, entry id, deliveries, task id, event channel, its payload ('' is what the entry holds), how
--       the run ran ('', 'child' or 'worker'), reason, error type, guilty ('1' if the task is known to be to blame,
--       '0'), max_crashes
-- Returns 'pending', 'failed', 'cancelled' (that was asked for meanwhile), 'lost', or 'gone' (the entry is: nothing was
-- done, and the payload is asked for).
--!include holds_claim kept_fields drop_entry is_terminal cancel_task lose_process fail_task TASK_TTL read_record
local queue, dead, task, events = unpack(KEYS)
local group, consumer, entry, deliveries, id, channel, payload = unpack(ARGV, 1, 7)
local alone, reason, error_type, guilty, max_crashes = unpack(ARGV, 8)
if not holds_claim(queue, group, consumer, entry, deliveries, task) then return 'lost' end
local fields = kept_fields(queue, entry, payload)
if not fields then return 'gone' end
local known = read_record(task, 'status', 'cancel_requested_at', 'completed_at')
-- A run of another entry of this task has ended it: that end stands.
if is_terminal(known[1]) and known[3] then
  drop_entry(queue, group, entry)
  return 'lost'
end
if known[1] == 'cancelled' or known[2] then
  drop_entry(queue, group, entry)
  cancel_task(task, events, channel, id)
  return 'cancelled'
end
local err = lose_process(task, {
  consumer = consumer, alone = alone, reason = reason, guilty = guilty, max_crashes = max_crashes,
})
if err then
  drop_entry(queue, group, entry)
  fail_task(dead, fields, task, events, channel, id, err, error_type)
  return 'failed'
end
redis.call('HSET', task, 'entry', redis.call('XADD', queue, '*', unpack(fields)))
drop_entry(queue, group, entry)
redis.call('EXPIRE', task, TASK_TTL)
return 'pending'
