-- Puts delayed tasks that are due on the queue, up to a hundred of them. `promoted` is called with the id of each, and
-- the id of its entry, or nil where its payload is gone.
--!include now_ms
local function promote(queue, delayed, parked, promoted)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', now_ms(), 'LIMIT', '0', '100')) do
    local payload = redis.call('HGET', parked, id)
    promoted(id, payload and redis.call('XADD', queue, '*', 'payload', payload))
    redis.call('HDEL', parked, id)
    redis.call('ZREM', delayed, id)
  end
end
