#!lua flags=allow-oom
-- Renews the leases of running claims, without raising their delivery counts, and keeps what there is of their tasks.
-- KEYS  queue, then for each claim: task hash, event stream
-- ARGV  group, consumer, then for each claim: entry id, deliveries
-- Returns for each claim 'ok', 'lost' or 'cancel'.
--!include check_fence TASK_TTL EVENT_TTL
local verdicts = {}
for n = 1, (#KEYS - 1) / 2 do
  local task, events = KEYS[2 * n], KEYS[2 * n + 1]
  local entry, deliveries = ARGV[1 + 2 * n], ARGV[2 + 2 * n]
  if not check_fence(KEYS[1], ARGV[1], ARGV[2], entry, deliveries) then
    verdicts[n] = 'lost'
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, entry, 'JUSTID')
    redis.call('EXPIRE', task, TASK_TTL)
    -- A run may say nothing for longer than its events are kept.
    redis.call('EXPIRE', events, EVENT_TTL)
    local known = redis.call('HMGET', task, 'status', 'cancel_requested_at')
    verdicts[n] = (known[2] or known[1] == 'cancelled') and 'cancel' or 'ok'
  end
end
return verdicts
