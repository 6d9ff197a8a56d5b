#!lua
-- Accepts tasks, each once: submitting an id that is known changes nothing.
-- KEYS  queue, {queue}:delayed, {queue}:parked, index set, by_time zset, {queue}:tasks, then for
--       each task: task hash
-- ARGV  for each task: task id, payload JSON, agent name, created_at (epoch seconds, text), not_before (epoch ms; '' is
--       now)
-- Returns how many were not known before. Fails with OOM, having written nothing, when Redis is full.
--!include now_ms TASK_TTL list_tasks
local call, queue, accepted, places = redis.call, KEYS[1], {}, {}
for n = 7, #KEYS do
  local task, at = KEYS[n], 5 * n - 34
  local id, payload, due = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 4])
  if call('EXISTS', task) == 0 then
    accepted[#accepted + 1] = id
    local since, place, place_is
    if due and due > now_ms() then
      since = now_ms()
      place, place_is = 'next_attempt_at', string.format('%.3f', due / 1000)
      call('HSET', KEYS[3], id, payload)
      call('ZADD', KEYS[2], due, id)
    else
      place, place_is = 'entry', call('XADD', queue, '*', 'payload', payload)
      -- The entry says what time it is: one call less.
      since = string.match(place_is, '%d+')
    end
    call('HSET', task, 'task_id', id, 'status', 'pending', 'created_at', ARGV[at + 3], 'queue', queue,
      'agent_name', ARGV[at + 2], place, place_is)
    if place == 'entry' then
      call('EXPIRE', task, TASK_TTL)
    else
      -- Known for as long as it can still run.
      call('PEXPIRE', task, string.format('%d', due - since + TASK_TTL * 1000))
    end
    places[#places + 1], places[#places + 2] = since, id
  end
end
list_tasks(KEYS[4], KEYS[5], KEYS[6], accepted, places)
return #accepted
