#!lua flags=allow-oom
-- Begins a run of a task that Temporal owns. Sending it again is harmless.
-- KEYS  task hash
-- ARGV  run id of the workflow, number of this run in it, worker id, workflow id, counter to raise ('' or 'crashes'),
--       task id, queue, agent name, created_at
-- Returns { verdict, attempt, retries, status, how it must run ('', or alone in a 'child' or 'worker') }: verdict
-- 'run'; 'over' (it has ended, with that status); 'cancelled' (that was asked for); or 'lost' (a later run has begun).
--!include is_terminal temporal_run now_seconds temporal_fence TASK_TTL read_record count_of raise_count
local task = KEYS[1]
local run, number, worker, workflow, counter, id, queue, agent, created = unpack(ARGV)
local known = read_record(task, 'status', 'fence', 'attempt', 'retries', 'cancel_requested_at', 'alone')
local retries = count_of(known[4])
local alone = (known[6] == 'child' or known[6] == 'worker') and known[6] or ''
if is_terminal(known[1]) then return { 'over', 0, retries, known[1], '' } end
if known[5] then return { 'cancelled', 0, retries, known[1] or '', '' } end
local last = temporal_run(known[2], run)
if last > tonumber(number) then return { 'lost', 0, retries, known[1] or '', '' } end
local attempt = count_of(known[3])
if not known[1] then
  redis.call('HSET', task, 'task_id', id, 'created_at', created, 'queue', queue, 'agent_name', agent)
end
if last < tonumber(number) then
  -- The first run is the one for which the claim was counted.
  if attempt == 0 or tonumber(number) > 1 then attempt = attempt + 1 end
  if counter ~= '' then raise_count(task, counter, 1) end
  redis.call('HSET', task, 'started_at', now_seconds())
end
redis.call('HSET', task, 'status', 'running', 'worker_id', worker, 'fence', temporal_fence(run, number),
  'attempt', attempt, 'executor', 'temporal', 'workflow_id', workflow)
redis.call('HDEL', task, 'error', 'error_type', 'completed_at', 'next_attempt_at')
redis.call('EXPIRE', task, TASK_TTL)
return { 'run', attempt, retries, 'running', alone }
