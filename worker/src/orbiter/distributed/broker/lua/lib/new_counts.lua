-- Returns what a worker counted and what its tasks used, or '' and '' where that has come before: a heartbeat whose
-- reply was lost brings the same again, under the same number.
local function new_counts(worker, number, counts, usage)
  if counts == '' and usage == '' or redis.call('HGET', worker, 'counted') == number then return '', '' end
  redis.call('HSET', worker, 'counted', number)
  return counts, usage
end
