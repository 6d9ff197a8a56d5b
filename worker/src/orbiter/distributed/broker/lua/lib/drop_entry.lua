-- Acknowledges an entry and deletes it.
local function drop_entry(queue, group, entry)
  redis.call('XACK', queue, group, entry)
  redis.call('XDEL', queue, entry)
end
