#!lua flags=allow-oom
-- Records how a run ended, in a cluster: its record, guarded by the fence that its start left there. Sending it again
-- is harmless.
-- KEYS  task hash
-- ARGV  fence, status ('completed', 'failed', 'cancelled', 'retrying' or 'pending'), then field, value, … to set
-- Returns the status that stands, or 'lost' where the run is not ours any more.
--!include is_terminal now_seconds TASK_TTL ENDED_TTL read_record raise_count
local task, fence, status = KEYS[1], ARGV[1], ARGV[2]
local known = read_record(task, 'status', 'fence', 'cancel_requested_at')
if known[2] ~= fence then return 'lost' end
if known[1] ~= 'running' then
  -- Recorded already; or a 0.1 client has written the end, which stands.
  if is_terminal(known[1]) then redis.call('HSETNX', task, 'completed_at', now_seconds()) end
  return known[1]
end
local again = status == 'retrying' or status == 'pending'
if again and known[3] then status, again = 'cancelled', false end
redis.call('HSET', task, 'status', status)
if again then
  raise_count(task, status == 'retrying' and 'retries' or 'handoffs', 1)
else
  redis.call('HSET', task, 'completed_at', now_seconds())
end
if status == ARGV[2] and #ARGV > 2 then redis.call('HSET', task, unpack(ARGV, 3)) end
redis.call('EXPIRE', task, again and TASK_TTL or ENDED_TTL)
return status
