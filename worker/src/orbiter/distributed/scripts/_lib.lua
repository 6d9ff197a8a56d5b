-- Put before every script: what they share.

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

-- Redis' own clock: hosts' clocks decide nothing.
local function now_seconds()
  local time = redis.call('TIME')
  return string.format('%d.%06d', time[1], time[2])
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function drop_entry(queue, group, entry)
  redis.call('XACK', queue, group, entry)
  redis.call('XDEL', queue, entry)
end

local function payload_of(queue, entry)
  local rows = redis.call('XRANGE', queue, entry, entry)
  return #rows > 0 and rows[1][2] or nil
end

local TASK_TTL = 86400
local EVENT_TTL = 3600
local EVENT_CAP = 10000
local DEAD_CAP = 10000
local function is_terminal(status)
  return status == 'completed' or status == 'failed' or status == 'cancelled'
end

local function publish(events, channel, event)
  redis.call('XADD', events, 'MAXLEN', '~', EVENT_CAP, '*', 'event', event)
  redis.call('EXPIRE', events, EVENT_TTL)
  redis.call('PUBLISH', channel, event)
end

-- Ends a task that no worker is to run any more, with the one final event that ends its subscribers.
local function cancel_task(task, events, channel, id)
  redis.call('HSET', task, 'task_id', id, 'status', 'cancelled', 'completed_at', now_seconds())
  redis.call('EXPIRE', task, TASK_TTL)
  local attempt = tonumber(redis.call('HGET', task, 'attempt') or '0')
  publish(events, channel, '{"type": "status", "status": "cancelled", "agent_name": "", "message": '
    .. cjson.encode('Task ' .. id .. ' cancelled') .. ', "seq": 1, "attempt": ' .. attempt + 1 .. '}')
end

-- What cannot be run any more is kept, with the reason, for a person to look at.
local function bury(dead, fields, id, reason, error_type)
  local row = { 'XADD', dead, 'MAXLEN', '~', DEAD_CAP, '*', 'task_id', id, 'reason', reason, 'error_type', error_type }
  local has_payload = false
  for i = 1, #(fields or {}), 2 do
    if fields[i] == 'payload' then has_payload = true end
    row[#row + 1] = fields[i] == 'payload' and 'payload' or 'entry_' .. fields[i]
    row[#row + 1] = fields[i + 1]
  end
  if not has_payload then
    row[#row + 1] = 'payload'
    row[#row + 1] = ''
  end
  redis.call(unpack(row))
end
