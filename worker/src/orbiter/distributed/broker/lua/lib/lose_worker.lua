-- Counts the loss of the worker that ran a task, which proves nothing about the task unless it ran alone in it.
-- `fence` is that of the lost run, `alone` how it ran, `crashes` what was charged before. Returns how it runs next; or
-- nil and the reason, where it is given up.
-- `alive` are workers that live, each behind a line break and before one: one of them only had its lease run out, as
-- while Redis was away, and neither charges the task nor makes it a suspect.
--!include lost_too_often raise_count
local function lose_worker(task, fence, alone, crashes, max_crashes, alive)
  if fence and redis.call('HGET', task, 'waiting') == fence then
    -- It had not begun: what it waited behind may have cost the worker, it has not.
    raise_count(task, 'handoffs', 1)
    return alone
  end
  local losses = raise_count(task, 'losses', 1)
  -- A worker of 0.1 leaves no fence.
  local worker = string.match(fence or '', '^%S+ %S+ (.+)$')
  local lives = worker and string.find(alive, '\n' .. worker .. '\n', 1, true)
  local workers = raise_count(task, 'worker_losses', lives and 0 or 1)
  local expiries = raise_count(task, 'expiries', lives and 1 or 0)
  if alone == 'worker' and not lives then crashes = raise_count(task, 'crashes', 1) end
  local cause = lives and 'its lease ran out at worker ' .. worker
    or worker and 'its worker ' .. worker .. ' was lost' or 'its worker was lost'
  redis.call('HSET', task, 'last_loss', cause)
  if lost_too_often(crashes, losses, expiries, max_crashes) then
    return nil, 'lost its worker ' .. losses .. (losses == 1 and ' time' or ' times')
  end
  if workers >= 2 then
    alone = 'worker'
    redis.call('HSET', task, 'alone', alone)
  end
  return alone
end
