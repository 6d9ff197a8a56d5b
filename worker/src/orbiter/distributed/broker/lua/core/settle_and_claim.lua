#!lua flags=allow-oom
-- Settles some claims and makes others. First records how runs ended, publishes that and acknowledges their entries;
-- then promotes delayed tasks that are due, claims up to `count` waiting entries without blocking, and starts those
-- that are tasks which our own submit put there. Recording an outcome twice is harmless; what a call claims whose reply
-- is lost is pending on the consumer.
-- KEYS  queue, {queue}:delayed, {queue}:parked, {queue}:dead
-- ARGV  group, consumer, prefixes of task hash, event stream, event channel, count (0: only settle), max_crashes,
--       largest payload (bytes), then for each outcome: entry id, deliveries, task id, status, value (the result as
--       JSON, or the error's text), error type, place of the final event (attempt-seq!), its JSON
-- Returns { for each outcome, for each claim }: of an outcome the recorded status, or 'lost' where nothing was written,
-- as the claim is another's or the task had ended otherwise; of a claim what start_entry returns.
--!include is_terminal holds_claim fence_of cancel_task end_record dead_letter entry_fields add_final_event
--!include promote start_entry each read_record list_ended
local queue, delayed, parked, dead = unpack(KEYS)
local group, consumer, tasks, streams, channels, count, max_crashes, largest = unpack(ARGV, 1, 8)
local recorded, settled, claimed = {}, {}, {}

local HEAD, ROW = 8, 8
-- Delivery counts of what is pending on this consumer, asked for once where there are several outcomes; holds_claim
-- looks for the rest.
local delivery_counts = {}
if #ARGV > HEAD + ROW then
  local rows = redis.pcall('XPENDING', queue, group, '-', '+', '1000', consumer)
  for _, row in ipairs(rows.err and {} or rows) do delivery_counts[row[1]] = row[4] end
end

local function settle(n)
  local entry, deliveries, id, status, value, error_type, place, event = unpack(ARGV, n, n + 7)
  local task, events, channel = tasks .. id, streams .. id, channels .. id
  local known = read_record(task, 'status', 'fence')
  local ended = is_terminal(known[1]) and redis.call('HGET', task, 'completed_at')
  local pending = delivery_counts[entry] == tonumber(deliveries)
    or holds_claim(queue, group, consumer, entry, deliveries, task, known)
  if pending then settled[#settled + 1] = entry end
  if ended then
    -- It was ended by this very call, sent before, or by a run of another entry of the task: that end stands.
    return known[2] == fence_of(entry, deliveries, consumer) and known[1] or 'lost'
  end
  if not pending then return 'lost' end
  if known[1] == 'cancelled' then
    -- A 0.1 client has written the end already; it stands.
    cancel_task(task, events, channel, id)
    return 'cancelled'
  end
  -- A record that vanished during the run is to name its task.
  if not known[1] then redis.call('HSET', task, 'task_id', id, 'queue', queue) end
  if status == 'completed' then
    end_record(task, status, 'result', value)
  elseif status == 'failed' then
    end_record(task, status, 'error', value, 'error_type', error_type)
    dead_letter(dead, entry_fields(queue, entry), id, value, error_type)
  else
    end_record(task, status)
  end
  list_ended(task, id, status)
  -- Of a task that has said nothing else, the record tells its end: a stream for one event would take five times what
  -- all else takes that is kept of the task.
  if status == 'completed' and redis.call('EXISTS', events) == 0 then
    redis.call('PUBLISH', channel, event)
  else
    add_final_event(events, channel, place, event)
  end
  return status
end

for n = HEAD + 1, #ARGV, ROW do
  local status, err = each(nil, settle, n)
  if not status then
    -- Nothing of it is tried again: its record is ended like that of a task whose entry was lost.
    local entry, id = ARGV[n], ARGV[n + 2]
    local reason = 'its outcome cannot be recorded: ' .. err
    dead_letter(dead, entry_fields(queue, entry), id, reason, 'UnreadableRecordError')
    settled[#settled + 1] = entry
    status = 'lost'
  end
  recorded[#recorded + 1] = status
end
if #settled > 0 then
  redis.call('XACK', queue, group, unpack(settled))
  redis.call('XDEL', queue, unpack(settled))
end
if count == '0' then return { recorded, claimed } end

promote(queue, delayed, parked, function(id, entry)
  -- HDEL tells whether the record still exists: one that has expired is not made anew.
  if redis.pcall('HDEL', tasks .. id, 'next_attempt_at') == 1 and entry then
    redis.call('HSET', tasks .. id, 'entry', entry)
  end
end)

local at = {
  queue = queue, group = group, consumer = consumer, dead = dead, deliveries = 1, max_crashes = tonumber(max_crashes),
  largest = tonumber(largest), tasks = tasks, streams = streams, channels = channels,
}
local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', queue, '>')
for n, row in ipairs(reply and reply[1][2] or {}) do
  -- What cannot be started here is read by its reader.
  claimed[n] = each(nil, start_entry, at, row[1], row[2]) or { row[1], row[2], 'read', 1, 0, 0, '' }
end
return { recorded, claimed }
