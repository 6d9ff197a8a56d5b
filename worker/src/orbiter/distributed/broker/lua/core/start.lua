#!lua flags=allow-oom
-- Starts claimed tasks, unless they ended or were cancelled meanwhile; one call for a whole batch. Their leases begin
-- anew.
-- KEYS  queue, {queue}:dead, index set, by_time zset, {queue}:tasks, then for each claim: task hash, event
--       stream
-- ARGV  group, consumer, max_crashes, workers that live, then for each claim: entry id, task id, agent name,
--       created_at, event channel
-- Returns for each claim { verdict, deliveries, attempt, retries, alone } with verdict 'run'; 'drop' (ended, or not
-- ours); or 'dead' (a dead letter, also of what cannot be started).
--!include check_fence TASK_TTL now_ms start_task read_start each dead_letter entry_fields drop_entry
--!include list_tasks
local queue, dead, index, by_time, tasks = unpack(KEYS, 1, 5)
local group, consumer, max_crashes, alive = unpack(ARGV, 1, 4)

local function start(n)
  local task, events = KEYS[6 + 2 * n], KEYS[7 + 2 * n]
  local entry, id, agent, created, channel = unpack(ARGV, 5 + 5 * n, 9 + 5 * n)
  local deliveries = check_fence(queue, group, consumer, entry)
  if not deliveries then return { 'drop', 0, 0, 0, '' } end
  redis.call('XCLAIM', queue, group, consumer, 0, entry, 'JUSTID')
  local known = read_start(task)
  if not known[1] then
    -- Put there by a 0.1 client, which writes no hash, or its hash has expired.
    redis.call('HSET', task, 'task_id', id, 'created_at', created, 'queue', queue, 'agent_name', agent)
    redis.call('EXPIRE', task, TASK_TTL)
    list_tasks(index, by_time, tasks, { id }, { now_ms(), id })
  else
    -- A worker of 0.1 does not write it. What has no queue is never found to be lost.
    redis.call('HSETNX', task, 'queue', queue)
  end
  local verdict, attempt, retries, alone = start_task({
    queue = queue, group = group, consumer = consumer, dead = dead, entry = entry, deliveries = deliveries, id = id,
    max_crashes = tonumber(max_crashes), alive = alive, task = task, events = events, channel = channel,
  }, known)
  return { verdict, deliveries, attempt, retries, alone }
end

local verdicts = {}
for n = 0, (#KEYS - 5) / 2 - 1 do
  local verdict, err = each(nil, start, n)
  if not verdict then
    local entry, id = ARGV[5 + 5 * n], ARGV[6 + 5 * n]
    dead_letter(dead, entry_fields(queue, entry), id, 'it cannot be started: ' .. err, 'UnreadableRecordError')
    drop_entry(queue, group, entry)
    verdict = { 'dead', 0, 0, 0, '' }
  end
  verdicts[#verdicts + 1] = verdict
end
return verdicts
