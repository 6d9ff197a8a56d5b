-- Puts the entry that a dead letter was made of back on the queue; returns the id of the new one.
local function requeue_dead_letter(queue, fields)
  local entry = {}
  for i = 1, #fields, 2 do
    local name = fields[i] == 'payload' and 'payload' or string.match(fields[i], '^entry_(.+)$')
    if name then
      entry[#entry + 1] = name
      entry[#entry + 1] = fields[i + 1]
    end
  end
  return redis.call('XADD', queue, '*', unpack(entry))
end
