-- Starts a claimed task, unless it ended or was cancelled meanwhile.
-- `at` is a table of queue, group, consumer, dead, max_crashes; entry, deliveries; id, task, events, channel.
-- `known` is what read_start returns.
-- Returns verdict ('run', 'drop' or 'dead'), attempt, retries, how it must run ('', or alone in a 'child' or 'worker').
--!include is_terminal cancel_task drop_entry check_fence lose_worker fail_task entry_fields fence_of count_of run_task
local function start_task(at, known)
  local status, fence = known[1], fence_of(at.entry, at.deliveries, at.consumer)
  local alone = (known[9] == 'child' or known[9] == 'worker') and known[9] or ''
  if is_terminal(status) or known[2] then
    -- A 0.1 client cancels by writing the status alone: the end is recorded and published here.
    if not is_terminal(status) or (status == 'cancelled' and not known[3]) then
      cancel_task(at.task, at.events, at.channel, at.id)
    end
    drop_entry(at.queue, at.group, at.entry)
    return 'drop', 0, 0, ''
  end
  if status == 'running' and known[8] == 'temporal' then
    -- Temporal has it: the worker that delegated it was lost before it acknowledged the entry.
    drop_entry(at.queue, at.group, at.entry)
    return 'drop', 0, 0, ''
  end
  -- Started already under this very claim, by a call whose reply was lost.
  if status == 'running' and known[4] == fence then
    return 'run', count_of(known[7]), count_of(known[6]), alone
  end
  -- A 0.1 client that sent its XADD again left two entries of this task: the one whose claim stands is enough.
  local other, count, holder = string.match(status == 'running' and known[4] or '', '^(%d+%-%d+) (%d+) (.+)$')
  if other and other ~= at.entry and check_fence(at.queue, at.group, holder, other, count) then
    drop_entry(at.queue, at.group, at.entry)
    return 'drop', 0, 0, ''
  end
  -- Still 'running' under another claim: that worker was lost during the run.
  if status == 'running' then
    local reason
    alone, reason = lose_worker(at.task, known[4], alone, count_of(known[5]), at.max_crashes,
      at.alive or '')
    if reason then
      fail_task(at.dead, entry_fields(at.queue, at.entry), at.task, at.events, at.channel, at.id, reason,
        'WorkerLostError')
      drop_entry(at.queue, at.group, at.entry)
      return 'dead', 0, 0, ''
    end
  end
  local attempt = count_of(known[7]) + 1
  run_task(at.task, fence, at.consumer, attempt)
  if attempt > 1 or known[3] then
    redis.call('HDEL', at.task, 'error', 'error_type', 'completed_at', 'next_attempt_at', 'executor', 'workflow_id',
      'held_until')
  end
  -- The record is kept for another day by the first renewal, within a second.
  return 'run', attempt, count_of(known[6]), alone
end
