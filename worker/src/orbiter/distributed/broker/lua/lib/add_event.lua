-- Adds an event to a task's stream and publishes it.
-- The field `at` beside the event (attempt-seq, and a '!' for the final one) lets a repeated call see what is there.
--!include EVENT_CAP add_row
local function add_event(events, channel, attempt, seq, event)
  add_row(events, 'MAXLEN', '~', EVENT_CAP, '*', 'event', event, 'at', attempt .. '-' .. seq)
  redis.call('PUBLISH', channel, event)
end
