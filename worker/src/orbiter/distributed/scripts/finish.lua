#!lua flags=allow-oom
-- Records outcomes, announces them and acknowledges the entries; one call for a whole batch. Sending it twice is harmless.
-- KEYS  queue, {queue}:dead, then for each claim: task hash, event stream
-- ARGV  group, consumer, JSON: for each claim [entry id, deliveries, task id, status, field ('result' or 'error'), value,
--       error type, event channel, attempt, seq of the final event, final event JSON]; one argument, as each of them costs
--       the client more than all of this costs here
-- Returns for each claim the recorded status, or 'lost' where the claim is another's and nothing was written.
local queue, dead = KEYS[1], KEYS[2]
local group, consumer = ARGV[1], ARGV[2]
local outcomes = cjson.decode(ARGV[3])
local recorded, settled = {}, {}

-- What is pending on this consumer, with delivery counts; asked for once where there are several outcomes.
local held = {}
if #outcomes > 1 then
  local rows = redis.pcall('XPENDING', queue, group, '-', '+', 1000, consumer)
  for _, row in ipairs(rows.err and {} or rows) do held[row[1]] = row[4] end
end

for n, outcome in ipairs(outcomes) do
  local task, events = KEYS[1 + 2 * n], KEYS[2 + 2 * n]
  local entry, deliveries, id, status, field, value, error_type, channel, attempt, seq, event = unpack(outcome)
  local known = redis.call('HMGET', task, 'status', 'fence', 'completed_at')
  local ours = known[2] == entry .. ' ' .. deliveries .. ' ' .. consumer
  if is_terminal(known[1]) and known[3] then
    -- By this very call, sent again; or by the run of another entry of this task, whose end stands.
    recorded[n] = ours and known[1] or 'lost'
    if (held[entry] or owned(queue, group, consumer, entry)) == deliveries then settled[#settled + 1] = entry end
  elseif (held[entry] or owned(queue, group, consumer, entry)) ~= deliveries then
    recorded[n] = 'lost'
  else
    if known[1] == 'cancelled' then
      -- A 0.1 client has written the end already; it stands.
      cancel_task(task, events, channel, id)
      status = 'cancelled'
    else
      if status == 'failed' then
        redis.call('HSET', task, 'error_type', error_type)
        bury(dead, payload_of(queue, entry), id, value, error_type)
      end
      if value == '' then
        redis.call('HSET', task, 'status', status, 'completed_at', now_seconds())
      else
        redis.call('HSET', task, 'status', status, 'completed_at', now_seconds(), field, value)
      end
      redis.call('EXPIRE', task, ENDED_TTL)
      add_event(events, channel, attempt, seq, event, true)
      redis.call('EXPIRE', events, EVENT_TTL)
    end
    settled[#settled + 1] = entry
    recorded[n] = status
  end
end
if #settled > 0 then
  redis.call('XACK', queue, group, unpack(settled))
  redis.call('XDEL', queue, unpack(settled))
end
return recorded
