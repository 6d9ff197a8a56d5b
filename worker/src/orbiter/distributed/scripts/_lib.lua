-- Put before every script: what they share. Before this stand two settings: `ENDED_TTL`, for how long the record of a task
-- that has ended is kept, and `EVENT_TTL`, for how long its events are; seconds.

-- The claim is ours while the group's pending list says so: same entry, same consumer, same delivery count. This is the
-- fence: a worker that was presumed dead finds its claim gone and changes nothing.
-- Returns the delivery count, or nil. `deliveries` may be nil or '': any count will do.
local function owned(queue, group, consumer, entry, deliveries)
  local rows = redis.pcall('XPENDING', queue, group, entry, entry, 1, consumer)
  if rows.err or #rows == 0 then return nil end
  local count = rows[1][4]
  if deliveries and deliveries ~= '' and tonumber(deliveries) ~= count then return nil end
  return count
end

-- Redis' own clock: hosts' clocks decide nothing. It stands still during a call, so it is read once.
local clock
local function now()
  clock = clock or redis.call('TIME')
  return clock
end

local clock_text
local function now_seconds()
  clock_text = clock_text or string.format('%d.%06d', now()[1], now()[2])
  return clock_text
end

local function now_ms()
  return now()[1] * 1000 + math.floor(now()[2] / 1000)
end

local function drop_entry(queue, group, entry)
  redis.call('XACK', queue, group, entry)
  redis.call('XDEL', queue, entry)
end

local function payload_of(queue, entry)
  local rows = redis.call('XRANGE', queue, entry, entry)
  return #rows > 0 and rows[1][2] or nil
end

-- Of a task that may still run.
local TASK_TTL = 86400
local EVENT_CAP = '10000'
local DEAD_CAP = 10000
local DEAD_PAYLOAD_CAP = 1000000

local function is_terminal(status)
  return status == 'completed' or status == 'failed' or status == 'cancelled'
end

-- The field `at` beside the event, attempt-seq and for the final one a '!', lets a repeated call see what has arrived already.
local function add_event(events, channel, attempt, seq, event)
  redis.call('XADD', events, 'MAXLEN', '~', EVENT_CAP, '*', 'event', event, 'at', attempt .. '-' .. seq)
  redis.call('PUBLISH', channel, event)
end

-- The last event of a stream; `at` is its place with the '!'. The stream is not trimmed for it: it is one more, and the last.
local function add_final_event(events, channel, at, event)
  redis.call('XADD', events, '*', 'event', event, 'at', at)
  redis.call('EXPIRE', events, EVENT_TTL)
  redis.call('PUBLISH', channel, event)
end

-- Returns attempt and seq of the last event on a stream, and whether it is the final one; 0, 0, false where there is none of ours.
local function last_event(events)
  local rows = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)
  if #rows > 0 then
    local fields = rows[1][2]
    for i = 1, #fields, 2 do
      if fields[i] == 'at' then
        local attempt, seq, final = string.match(fields[i + 1], '^(%d+)%-(%d+)(!?)$')
        if attempt then return tonumber(attempt), tonumber(seq), final == '!' end
      end
    end
  end
  return 0, 0, false
end

-- The one event that ends a task's subscribers, said by a script for a run that cannot say it.
local function end_events(events, channel, status, message)
  local attempt, seq = last_event(events)
  add_final_event(events, channel, attempt .. '-' .. seq + 1 .. '!', '{"type": "status", "status": "' .. status
    .. '", "agent_name": "", "message": ' .. cjson.encode(message)
    .. ', "seq": ' .. seq + 1 .. ', "attempt": ' .. attempt .. '}')
end

-- Ends a task that no worker is to run any more.
local function cancel_task(task, events, channel, id)
  redis.call('HSET', task, 'task_id', id, 'status', 'cancelled', 'completed_at', now_seconds())
  redis.call('EXPIRE', task, ENDED_TTL)
  end_events(events, channel, 'cancelled', 'Task ' .. id .. ' cancelled')
end

-- What cannot be run any more is kept, with the reason, for a person to look at.
local function bury(dead, fields, id, reason, error_type)
  local row = { 'XADD', dead, 'MAXLEN', '~', DEAD_CAP, '*', 'task_id', id, 'reason', reason, 'error_type', error_type }
  local has_payload = false
  for i = 1, #(fields or {}), 2 do
    local name, value = fields[i], fields[i + 1]
    if name == 'payload' then has_payload = true end
    if #value > DEAD_PAYLOAD_CAP then
      value = string.sub(value, 1, 1000)
      row[#row + 1] = 'truncated'
      row[#row + 1] = #fields[i + 1]
    end
    row[#row + 1] = name == 'payload' and name or 'entry_' .. name
    row[#row + 1] = value
  end
  if not has_payload then
    row[#row + 1] = 'payload'
    row[#row + 1] = ''
  end
  redis.call(unpack(row))
end

-- Puts the entry that a dead letter was made of back on the queue.
local function requeue(queue, fields)
  local entry = {}
  for i = 1, #fields, 2 do
    local name = fields[i] == 'payload' and 'payload' or string.match(fields[i], '^entry_(.+)$')
    if name then
      entry[#entry + 1] = name
      entry[#entry + 1] = fields[i + 1]
    end
  end
  redis.call('XADD', queue, '*', unpack(entry))
end

-- Ends a task as failed although no run of it failed: it lost too many workers, or cannot be read.
local function fail_task(dead, fields, task, events, channel, id, reason, error_type)
  bury(dead, fields, id, reason, error_type)
  redis.call('HSET', task, 'task_id', id, 'status', 'failed', 'error', reason, 'error_type', error_type,
    'completed_at', now_seconds())
  redis.call('EXPIRE', task, ENDED_TTL)
  end_events(events, channel, 'error', reason)
end

-- The fence of a run that Temporal began: the workflow's run, and which run of the task in it.
local function temporal_fence(run, number)
  return 'temporal ' .. run .. ' ' .. number
end

-- Returns which run of that workflow is the last known one, 0 where none is.
local function temporal_run(fence, run)
  local known, number = string.match(fence or '', '^temporal (%S+) (%d+)$')
  return known == run and tonumber(number) or 0
end

-- Starts a claimed task, unless it ended or was cancelled meanwhile.
-- `known` is HMGET of status, cancel_requested_at, completed_at, fence, crashes, retries, attempt, executor.
-- Returns verdict ('run', 'drop' or 'dead'), attempt, retries.
local function start_task(at, known)
  local status, fence = known[1], at.entry .. ' ' .. at.deliveries .. ' ' .. at.consumer
  if is_terminal(status) or known[2] then
    -- A 0.1 client cancels by writing the status alone: the end is recorded and announced here.
    if not is_terminal(status) or (status == 'cancelled' and not known[3]) then
      cancel_task(at.task, at.events, at.channel, at.id)
    end
    drop_entry(at.queue, at.group, at.entry)
    return 'drop', 0, 0
  end
  if status == 'running' and known[8] == 'temporal' then
    -- Temporal has it: whoever gave it to Temporal was lost before the entry was acknowledged.
    drop_entry(at.queue, at.group, at.entry)
    return 'drop', 0, 0
  end
  -- Started already under this very claim, by a call whose answer was lost.
  if status == 'running' and known[4] == fence then return 'run', tonumber(known[7]), tonumber(known[6] or '0') end
  -- A 0.1 client that sent its XADD again left two entries of this task: the one whose claim stands is enough.
  local other, count, holder = string.match(status == 'running' and known[4] or '', '^(%d+%-%d+) (%d+) (.+)$')
  if other and other ~= at.entry and owned(at.queue, at.group, holder, other, count) then
    drop_entry(at.queue, at.group, at.entry)
    return 'drop', 0, 0
  end
  -- Still 'running' under another claim: that worker was lost in the middle.
  local crashes = tonumber(known[5] or '0')
  if status == 'running' then crashes = redis.call('HINCRBY', at.task, 'crashes', 1) end
  local lost = math.max(crashes, at.deliveries - 1)
  if lost > at.max_crashes then
    fail_task(at.dead, payload_of(at.queue, at.entry), at.task, at.events, at.channel, at.id,
      'lost its worker ' .. lost .. ' times', 'WorkerLostError')
    drop_entry(at.queue, at.group, at.entry)
    return 'dead', 0, 0
  end
  local attempt = tonumber(known[7] or '0') + 1
  redis.call('HSET', at.task, 'status', 'running', 'worker_id', at.consumer, 'started_at', now_seconds(), 'fence', fence,
    'attempt', attempt)
  if attempt > 1 or known[3] then
    redis.call('HDEL', at.task, 'error', 'error_type', 'completed_at', 'next_attempt_at', 'executor', 'workflow_id')
  end
  -- The record is kept for another day by the first renewal, within a second.
  return 'run', attempt, tonumber(known[6] or '0')
end

-- Returns the task id at the beginning of a payload, or nil. What else the text holds, its reader checks.
local function task_in(text)
  -- The key that 0.1 and we write first.
  local id = string.match(text, '^{"task_id": ?"([%w_%.:@-]+)"')
  return id and #id <= 200 and id ~= 'index' and id ~= 'by_time' and id or nil
end

-- Starts an entry that was just claimed for the first time, if it is a task which our own submit put there.
-- `at` is what start_task is told of all of them: queue, group, consumer, dead, max_crashes, deliveries; and besides the largest
-- payload (bytes) and the prefixes of task hash, event stream and event channel. Task keys are made from the entries, so they
-- cannot be declared: a cluster claims in separate steps.
-- Returns { entry id, fields, verdict, deliveries, attempt, retries }: verdict 'run'; 'drop' or 'dead' (nothing to do); or 'read':
-- claimed, but not yet started, as only its reader can tell what it is.
local function begin(at, entry, fields)
  local text = fields[1] == 'payload' and fields[2] or ''
  local id = task_in(text)
  local known
  if id then
    at.entry, at.id, at.task, at.events, at.channel = entry, id, at.tasks .. id, at.streams .. id, at.channels .. id
    known = redis.call('HMGET', at.task, 'status', 'cancel_requested_at', 'completed_at', 'fence', 'crashes', 'retries',
      'attempt', 'executor')
  end
  if #text > at.largest then
    local reason = 'payload: ' .. #text .. ' bytes are more than the ' .. at.largest .. ' this worker accepts'
    if not known or not known[1] then
      bury(at.dead, fields, id or '', reason, 'PayloadTooLargeError')
    elseif not is_terminal(known[1]) then -- what has ended already stands
      fail_task(at.dead, fields, at.task, at.events, at.channel, id, reason, 'PayloadTooLargeError')
    end
    drop_entry(at.queue, at.group, entry)
    return { entry, {}, 'dead', 1, 0, 0 }
  end
  if not known or not known[1] then return { entry, fields, 'read', 1, 0, 0 } end
  local verdict, attempt, retries = start_task(at, known)
  return { entry, fields, verdict, 1, attempt, retries }
end
