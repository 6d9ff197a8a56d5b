#!lua flags=allow-oom
-- Renews the leases of running claims, without raising their delivery counts, and keeps what there is of their tasks.
-- KEYS  queue, then for each claim: task hash, event stream
-- ARGV  group, consumer, lease (ms), then for each claim: entry id, deliveries
-- Returns for each claim 'ok', 'lost' or 'cancel'.
--!include holds_claim read_record TASK_TTL EVENT_TTL each now_ms
local queue, group, consumer, lease = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])

local function renew(n)
  local task, events = KEYS[2 * n], KEYS[2 * n + 1]
  local entry, deliveries = ARGV[2 + 2 * n], ARGV[3 + 2 * n]
  if not holds_claim(queue, group, consumer, entry, deliveries, task) then return 'lost' end
  local claimed = redis.pcall('XCLAIM', queue, group, consumer, 0, entry, 'JUSTID')
  if claimed.err and not string.find(claimed.err, '^NOGROUP') then error(claimed) end
  -- Its entry is gone: from now on the record alone says that this worker runs it, and for how long.
  if claimed.err or #claimed == 0 then redis.call('HSET', task, 'held_until', now_ms() + 2 * lease) end
  redis.call('EXPIRE', task, TASK_TTL)
  -- A run may say nothing for longer than its events are kept.
  redis.call('EXPIRE', events, EVENT_TTL)
  local known = read_record(task, 'status', 'cancel_requested_at')
  return (known[2] or known[1] == 'cancelled') and 'cancel' or 'ok'
end

local verdicts = {}
-- What cannot be told of one claim ends no run: its record is mended when the run ends.
for n = 1, (#KEYS - 1) / 2 do verdicts[n] = each('ok', renew, n) end
return verdicts
