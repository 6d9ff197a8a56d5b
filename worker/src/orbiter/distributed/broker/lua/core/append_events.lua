#!lua flags=allow-oom
-- Adds events of runs to their streams and publishes them. Sending a call twice is harmless, and a run whose task has
-- ended or runs elsewhere by now adds nothing any more.
-- KEYS  for each run: event stream, task hash
-- ARGV  for each run: event channel, attempt, seq of the first event, number of events, then the events
--!include last_event is_terminal add_event EVENT_TTL read_record each
local function append(n, at)
  local channel, attempt = ARGV[at], tonumber(ARGV[at + 1])
  local first, count = tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local last_attempt, last_seq, ended = last_event(KEYS[n])
  local known = read_record(KEYS[n + 1], 'attempt', 'status')
  if ended or attempt ~= tonumber(known[1]) or is_terminal(known[2]) then return end
  if attempt > last_attempt then last_seq = 0 end
  for i = 0, count - 1 do
    if first + i > last_seq then add_event(KEYS[n], channel, attempt, first + i, ARGV[at + 4 + i]) end
  end
  redis.call('EXPIRE', KEYS[n], EVENT_TTL)
end

local at = 1
for n = 1, #KEYS, 2 do
  each(nil, append, n, at)
  at = at + 4 + tonumber(ARGV[at + 3])
end
return 1
