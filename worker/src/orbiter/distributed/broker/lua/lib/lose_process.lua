-- Counts the loss of the process that ran a task, while its worker lives on. It is charged as a crash if the run was
-- alone in there, and the worker knows that the task is to blame, or another worker has seen it die alone, too.
-- `lost` is a table of consumer, alone (how the run ran: '', 'child' or 'worker'), reason, guilty ('1' or '0'),
-- max_crashes. Returns nil: the task is to run again, alone; or the error by which it is given up.
--!include lost_too_often read_record count_of raise_count
local function lose_process(task, lost)
  local alone, died_at, crashes, expiries = unpack(read_record(task, 'alone', 'died_at', 'crashes', 'expiries'))
  local losses = raise_count(task, 'losses', 1)
  crashes = count_of(crashes)
  redis.call('HSET', task, 'last_loss', lost.reason)
  if lost.alone ~= '' then
    local elsewhere = died_at and died_at ~= '' and died_at ~= lost.consumer
    if lost.guilty == '1' or elsewhere then crashes = raise_count(task, 'crashes', 1) end
    redis.call('HSET', task, 'died_at', lost.consumer)
  end
  if lost_too_often(crashes, losses, count_of(expiries), tonumber(lost.max_crashes)) then
    return lost.reason .. '; ' .. losses .. (losses == 1 and ' run' or ' runs') .. ' lost, ' .. crashes
      .. ' charged as ' .. (crashes == 1 and 'a crash' or 'crashes')
  end
  -- Never lowered: what has cost workers runs alone in one.
  local next_alone = (alone == 'worker' or lost.alone == 'worker') and 'worker' or 'child'
  redis.call('HSET', task, 'status', 'pending', 'alone', next_alone)
  return nil
end
