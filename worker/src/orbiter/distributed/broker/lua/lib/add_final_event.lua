-- Adds the last event of a stream; `at` is its place with the '!'. The stream is not trimmed for it: it is one more.
--!include EVENT_TTL add_row
local function add_final_event(events, channel, at, event)
  add_row(events, '*', 'event', event, 'at', at)
  redis.call('EXPIRE', events, EVENT_TTL)
  redis.call('PUBLISH', channel, event)
end
