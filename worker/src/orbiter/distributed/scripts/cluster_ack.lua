#!lua flags=allow-oom
-- The queue's side of settling claims, last step: each entry goes; to the dead letters, back to the queue, or for good.
-- KEYS  queue, {queue}:dead, {queue}:delayed, {queue}:parked
-- ARGV  group, consumer, then for each claim: entry id, deliveries ('' is any), what ('drop', 'bury', 'again'), task id, reason,
--       error type, delay ms
local queue, dead, delayed, parked = unpack(KEYS)
local group, consumer = ARGV[1], ARGV[2]
for n = 3, #ARGV, 7 do
  local entry, deliveries, what, id, reason, error_type, delay = unpack(ARGV, n, n + 6)
  if owned(queue, group, consumer, entry, deliveries) then
    local fields = payload_of(queue, entry)
    if what == 'bury' then
      bury(dead, fields, id, reason, error_type)
    elseif what == 'again' and fields then
      if tonumber(delay) == 0 then
        redis.call('XADD', queue, '*', unpack(fields))
      else
        for i = 1, #fields, 2 do
          if fields[i] == 'payload' then redis.call('HSET', parked, id, fields[i + 1]) end
        end
        redis.call('ZADD', delayed, now_ms() + delay, id)
      end
    end
    drop_entry(queue, group, entry)
  end
end
return 1
