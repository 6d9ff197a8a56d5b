-- Raises a count of a record and returns it. What was no count before begins anew.
local function raise_count(task, field, by)
  local count = redis.pcall('HINCRBY', task, field, by)
  if type(count) ~= 'number' or count < by or count > 999999999 then
    if type(count) == 'table' and not string.find(count.err, 'integer', 1, true)
      and not string.find(count.err, 'overflow', 1, true) then error(count) end
    count = by
    redis.call('HSET', task, field, count)
  end
  return count
end
