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
local recorded = {}
for n = 0, (#KEYS - 2) / 2 - 1 do
  local task, events = KEYS[3 + 2 * n], KEYS[4 + 2 * n]
  local entry, deliveries, id, status, field, value, error_type, channel, attempt, seq, event = unpack(outcomes[n + 1])
  local known = redis.call('HMGET', task, 'status', 'fence', 'completed_at')
  local ours = known[2] == entry .. ' ' .. deliveries .. ' ' .. consumer
  if ours and is_terminal(known[1]) and known[3] then
    recorded[#recorded + 1] = known[1]
  elseif not owned(queue, group, consumer, entry, deliveries) then
    recorded[#recorded + 1] = 'lost'
  else
    if known[1] == 'cancelled' then
      -- A 0.1 client has written the end already; it stands.
      cancel_task(task, events, channel, id)
      status = 'cancelled'
    else
      redis.call('HSET', task, 'status', status, 'completed_at', now_seconds())
      if value ~= '' then redis.call('HSET', task, field, value) end
      if status == 'failed' then
        redis.call('HSET', task, 'error_type', error_type)
        bury(dead, payload_of(queue, entry), id, value, error_type)
      end
      redis.call('EXPIRE', task, TASK_TTL)
      add_event(events, channel, attempt, seq, event, true)
      redis.call('EXPIRE', events, EVENT_TTL)
    end
    drop_entry(queue, group, entry)
    recorded[#recorded + 1] = status
  end
end
return recorded
