#!lua flags=allow-oom
-- Ends a task that the queue does not hold any more, in a cluster: its record.
-- KEYS  task hash
-- ARGV  reason, error type, then the record as it was when the queue was searched: field, value, …
-- Returns the status that stands; '' where the record has changed.
--!include record_unchanged is_terminal now_seconds ENDED_TTL end_record
local task = KEYS[1]
if not record_unchanged(task, { unpack(ARGV, 3) }) then return '' end
-- What a client began, and did not end, is over, too: it must not begin anew what has ended.
redis.call('HDEL', task, 'submitting', 'resubmitting')
local status, asked = unpack(redis.call('HMGET', task, 'status', 'cancel_requested_at'))
if is_terminal(status) then
  redis.call('HSETNX', task, 'completed_at', now_seconds())
  redis.call('EXPIRE', task, ENDED_TTL)
  return status
end
if asked then
  end_record(task, 'cancelled')
else
  end_record(task, 'failed', 'error', ARGV[1], 'error_type', ARGV[2])
end
return asked and 'cancelled' or 'failed'
