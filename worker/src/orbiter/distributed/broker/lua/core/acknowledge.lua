#!lua flags=allow-oom
-- Settles claims on the queue, last step: acknowledges and deletes their entries, after it has made a dead letter of
-- each, requeued it, or neither.
-- KEYS  queue, {queue}:dead, {queue}:delayed, {queue}:parked
-- ARGV  group, consumer, then for each claim: entry id, deliveries ('' is any), what ('drop', 'dead_letter',
--       'requeue'), task id, reason, error type, delay ms
--!include check_fence entry_fields dead_letter now_ms drop_entry park payload_of
local queue, dead, delayed, parked = unpack(KEYS)
local group, consumer = ARGV[1], ARGV[2]
for n = 3, #ARGV, 7 do
  local entry, deliveries, what, id, reason, error_type, delay = unpack(ARGV, n, n + 6)
  if check_fence(queue, group, consumer, entry, deliveries) then
    local fields = entry_fields(queue, entry)
    if what == 'dead_letter' then
      dead_letter(dead, fields, id, reason, error_type)
    elseif what == 'requeue' and fields then
      if tonumber(delay) == 0 then
        redis.call('XADD', queue, '*', unpack(fields))
      else
        park(delayed, parked, id, payload_of(fields) or '', now_ms() + delay)
      end
    end
    drop_entry(queue, group, entry)
  end
end
return 1
