#!lua flags=allow-oom
-- Records that a task which Temporal owns will run once more. Sending it again is harmless.
-- KEYS  task hash
-- ARGV  run id of the workflow, number of the run that ended, status ('retrying' or 'pending'), counter to raise
--       ('retries' or 'handoffs'), delay ms, error, error type
-- Returns { status that stands (or 'lost' where a later run has begun), attempt, whether this call recorded it }.
--!include is_terminal temporal_run temporal_fence now_ms TASK_TTL read_record count_of raise_count
local task = KEYS[1]
local run, number, status, counter, delay, err, error_type = unpack(ARGV)
local known = read_record(task, 'status', 'fence', 'attempt')
local attempt = count_of(known[3])
if is_terminal(known[1]) then return { known[1], attempt, 0 } end
local last = temporal_run(known[2], run)
if last > tonumber(number) then return { 'lost', attempt, 0 } end
if last == tonumber(number) and known[1] == status then return { status, attempt, 0 } end
redis.call('HSET', task, 'status', status, 'fence', temporal_fence(run, number))
if err ~= '' then
  redis.call('HSET', task, 'error', err, 'error_type', error_type,
    'next_attempt_at', string.format('%.3f', (now_ms() + tonumber(delay)) / 1000))
end
raise_count(task, counter, 1)
redis.call('EXPIRE', task, TASK_TTL)
return { status, attempt, 1 }
