#!lua flags=allow-oom
-- Starts a claimed task in a cluster: its record. Sending it again is harmless.
-- KEYS  task hash
-- ARGV  entry id, deliveries, consumer, max_crashes, task id, queue, agent name, created_at, workers that live
-- Returns { verdict, attempt, retries, status, error, error type, new, alone }: verdict 'run'; 'over' (it has ended, or
-- was ended here, with that status); or 'elsewhere' (Temporal has it); new is 1 where it had no record.
--!include end_record is_terminal lose_worker TASK_TTL read_record count_of run_task fence_of
local task = KEYS[1]
local entry, deliveries, consumer, max_crashes, id, queue, agent, created, alive = unpack(ARGV)
local fence = fence_of(entry, deliveries, consumer)
local known = read_record(task, 'status', 'cancel_requested_at', 'completed_at', 'fence', 'crashes', 'retries',
  'attempt', 'error', 'error_type', 'executor', 'alone')
local status, new, alone = known[1], 0, (known[11] == 'child' or known[11] == 'worker') and known[11] or ''
if not status then
  redis.call('HSET', task, 'task_id', id, 'created_at', created, 'queue', queue, 'agent_name', agent)
  new = 1
else
  -- A worker of 0.1 does not write it. What has no queue is never found to be lost.
  redis.call('HSETNX', task, 'queue', queue)
end
local function over(ending, reason, kind) return { 'over', 0, 0, ending, reason or '', kind or '', new, '' } end
if is_terminal(status) then
  -- A 0.1 client cancels by writing the status alone: the end is recorded here.
  if not known[3] then end_record(task, status) end
  return over(status, known[8], known[9])
end
if status == 'running' and known[10] == 'temporal' then return { 'elsewhere', 0, 0, status, '', '', new, '' } end
if status == 'running' and known[4] == fence then
  return { 'run', count_of(known[7]), count_of(known[6]), status, '', '', new, alone }
end
if known[2] then
  end_record(task, 'cancelled')
  return over('cancelled')
end
-- Still 'running' under another claim: that worker was lost during the run.
if status == 'running' then
  local reason
  alone, reason = lose_worker(task, known[4], alone, count_of(known[5]), tonumber(max_crashes), alive)
  if reason then
    end_record(task, 'failed', 'error', reason, 'error_type', 'WorkerLostError')
    return over('failed', reason, 'WorkerLostError')
  end
end
local attempt = count_of(known[7]) + 1
run_task(task, fence, consumer, attempt)
redis.call('HDEL', task, 'error', 'error_type', 'completed_at', 'next_attempt_at', 'submitting', 'executor',
  'workflow_id', 'held_until')
redis.call('EXPIRE', task, TASK_TTL)
return { 'run', attempt, count_of(known[6]), 'running', '', '', new, alone }
