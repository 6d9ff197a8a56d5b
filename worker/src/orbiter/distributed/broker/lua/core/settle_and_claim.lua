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
--!include is_terminal check_fence cancel_task now_seconds dead_letter entry_fields ENDED_TTL add_final_event now_ms
--!include start_entry
local queue, delayed, parked, dead = unpack(KEYS)
local group, consumer, tasks, streams, channels, count, max_crashes, largest = unpack(ARGV, 1, 8)
local recorded, settled, claimed = {}, {}, {}

local HEAD, ROW = 8, 8
-- Delivery counts of what is pending on this consumer, asked for once where there are several outcomes; check_fence
-- looks for the rest.
local delivery_counts = {}
if #ARGV > HEAD + ROW then
  local rows = redis.pcall('XPENDING', queue, group, '-', '+', '1000', consumer)
  for _, row in ipairs(rows.err and {} or rows) do delivery_counts[row[1]] = row[4] end
end

for n = HEAD + 1, #ARGV, ROW do
  local entry, deliveries, id, status, value, error_type, place, event = unpack(ARGV, n, n + 7)
  local task, events, channel = tasks .. id, streams .. id, channels .. id
  local known = redis.call('HGET', task, 'status')
  local ended = is_terminal(known) and redis.call('HMGET', task, 'fence', 'completed_at')
  local pending = (delivery_counts[entry] or check_fence(queue, group, consumer, entry)) == tonumber(deliveries)
  if ended and ended[2] then
    -- It was ended by this very call, sent before, or by a run of another entry of the task: that end stands.
    local by_this_claim = ended[1] == entry .. ' ' .. deliveries .. ' ' .. consumer
    status = by_this_claim and known or 'lost'
  elseif not pending then
    status = 'lost'
  elseif known == 'cancelled' then
    -- A 0.1 client has written the end already; it stands.
    cancel_task(task, events, channel, id)
    status = 'cancelled'
  else
    if status == 'completed' then
      redis.call('HSET', task, 'status', status, 'completed_at', now_seconds(), 'result', value)
    elseif status == 'failed' then
      redis.call('HSET', task, 'status', status, 'completed_at', now_seconds(), 'error', value,
        'error_type', error_type)
      dead_letter(dead, entry_fields(queue, entry), id, value, error_type)
    else
      redis.call('HSET', task, 'status', status, 'completed_at', now_seconds())
    end
    redis.call('EXPIRE', task, ENDED_TTL)
    add_final_event(events, channel, place, event)
  end
  recorded[#recorded + 1] = status
  if pending then settled[#settled + 1] = entry end
end
if #settled > 0 then
  redis.call('XACK', queue, group, unpack(settled))
  redis.call('XDEL', queue, unpack(settled))
end
if count == '0' then return { recorded, claimed } end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', now_ms(), 'LIMIT', '0', '100')) do
  local payload = redis.call('HGET', parked, id)
  local entry = payload and redis.call('XADD', queue, '*', 'payload', payload)
  -- HDEL tells whether the record still exists: one that has expired is not made anew.
  if redis.call('HDEL', tasks .. id, 'next_attempt_at') == 1 and entry then
    redis.call('HSET', tasks .. id, 'entry', entry)
  end
  redis.call('HDEL', parked, id)
  redis.call('ZREM', delayed, id)
end

local at = {
  queue = queue, group = group, consumer = consumer, dead = dead, deliveries = 1, max_crashes = tonumber(max_crashes),
  largest = tonumber(largest), tasks = tasks, streams = streams, channels = channels,
}
local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', queue, '>')
for n, row in ipairs(reply and reply[1][2] or {}) do claimed[n] = start_entry(at, row[1], row[2]) end
return { recorded, claimed }
