#!lua flags=allow-oom
-- Settles a run whose process died, in a cluster: its record, guarded by the fence that its start left there. Sending
-- it again is harmless.
-- KEYS  task hash
-- ARGV  fence, consumer, how the run ran ('', 'child' or 'worker'), reason, error type, guilty ('1' or '0'),
--       max_crashes
-- Returns { the status that stands ('pending': it runs again), error, error type }; 'lost' where the run is not ours
-- any more.
--!include is_terminal now_seconds lose_process TASK_TTL end_record read_record
local task = KEYS[1]
local fence, consumer, alone, reason, error_type, guilty, max_crashes = unpack(ARGV)
local known = read_record(task, 'status', 'fence', 'cancel_requested_at', 'error', 'error_type')
if known[2] ~= fence then return { 'lost', '', '' } end
if known[1] ~= 'running' then
  -- Recorded already; or a 0.1 client has written the end, which stands.
  if is_terminal(known[1]) then redis.call('HSETNX', task, 'completed_at', now_seconds()) end
  return { known[1], known[4] or '', known[5] or '' }
end
if known[3] then
  end_record(task, 'cancelled')
  return { 'cancelled', '', '' }
end
local err = lose_process(task, {
  consumer = consumer, alone = alone, reason = reason, guilty = guilty, max_crashes = max_crashes,
})
if err then
  end_record(task, 'failed', 'error', err, 'error_type', error_type)
  return { 'failed', err, error_type }
end
redis.call('EXPIRE', task, TASK_TTL)
return { 'pending', '', '' }
