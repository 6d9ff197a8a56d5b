#!lua flags=allow-oom
-- Keeps a failed task that Temporal owned as a dead letter, once.
-- KEYS  {queue}:dead
-- ARGV  task id, reason, error type, payload, attempt
--!include dead_letter
local id, reason, error_type, payload, attempt = unpack(ARGV)
-- One that is sent again was sent a moment ago.
for _, row in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 50)) do
  local values = {}
  for i = 1, #row[2], 2 do values[row[2][i]] = row[2][i + 1] end
  if values['task_id'] == id and values['entry_attempt'] == attempt then return 0 end
end
dead_letter(KEYS[1], { 'payload', payload, 'attempt', attempt }, id, reason, error_type)
return 1
