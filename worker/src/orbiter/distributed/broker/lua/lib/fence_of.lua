-- Returns the fence of a claim, as its start leaves it in the record: it proves that a run is the latest of its task.
local function fence_of(entry, deliveries, consumer)
  return entry .. ' ' .. deliveries .. ' ' .. consumer
end
