#!lua flags=allow-oom
-- Renews the leases of running claims, without raising their delivery counts.
-- KEYS  queue, then for each claim: task hash
-- ARGV  group, consumer, then for each claim: entry id, deliveries
-- Returns for each claim 'ok', 'lost' or 'cancel'.
local verdicts = {}
for n = 1, #KEYS - 1 do
  local entry, deliveries = ARGV[1 + 2 * n], ARGV[2 + 2 * n]
  if not owned(KEYS[1], ARGV[1], ARGV[2], entry, deliveries) then
    verdicts[n] = 'lost'
  else
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, entry, 'JUSTID')
    redis.call('EXPIRE', KEYS[1 + n], TASK_TTL)
    local known = redis.call('HMGET', KEYS[1 + n], 'status', 'cancel_requested_at')
    verdicts[n] = (known[2] or known[1] == 'cancelled') and 'cancel' or 'ok'
  end
end
return verdicts
