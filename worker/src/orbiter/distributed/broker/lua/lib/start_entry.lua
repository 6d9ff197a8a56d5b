-- Starts an entry that was just claimed for the first time, if it is a task which our own submit put there.
-- `at` is what start_task is told of all of them: queue, group, consumer, dead, max_crashes, deliveries; and besides
-- the largest payload (bytes) and the prefixes of task hash, event stream and event channel. Task keys are made from
-- the entries, so they cannot be declared: a cluster claims in separate steps.
-- Returns { entry id, fields, verdict, deliveries, attempt, retries, alone }: verdict 'run'; 'drop' or 'dead' (nothing
-- to do); or 'read': claimed, but not yet started, as only its reader can tell what it is.
--!include plain_task_id dead_letter is_terminal fail_task drop_entry start_task read_start
local function start_entry(at, entry, fields)
  local text = fields[1] == 'payload' and fields[2] or ''
  local id = plain_task_id(text)
  local known
  if id then
    at.entry, at.id, at.task, at.events, at.channel = entry, id, at.tasks .. id, at.streams .. id, at.channels .. id
    known = read_start(at.task)
  end
  local size = #text
  if #fields > 2 or text == '' then
    size = 0
    for i = 2, #fields, 2 do size = size + #fields[i] end
  end
  if size > at.largest then
    local reason = 'payload: ' .. size .. ' bytes are more than the ' .. at.largest .. ' this worker accepts'
    if not known or not known[1] then
      dead_letter(at.dead, fields, id or '', reason, 'PayloadTooLargeError')
    elseif not is_terminal(known[1]) then -- what has ended already stands
      fail_task(at.dead, fields, at.task, at.events, at.channel, id, reason, 'PayloadTooLargeError')
    end
    drop_entry(at.queue, at.group, entry)
    return { entry, {}, 'dead', 1, 0, 0, '' }
  end
  if not known or not known[1] then return { entry, fields, 'read', 1, 0, 0, '' } end
  local verdict, attempt, retries, alone = start_task(at, known)
  return { entry, fields, verdict, 1, attempt, retries, alone }
end
