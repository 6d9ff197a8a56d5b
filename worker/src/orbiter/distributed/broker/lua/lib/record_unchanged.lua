-- Tells whether a record has not changed: `known` is field, value, …, with '' for a field that is not there.
local function record_unchanged(task, known)
  for i = 1, #known, 2 do
    if (redis.call('HGET', task, known[i]) or '') ~= known[i + 1] then return false end
  end
  return true
end
