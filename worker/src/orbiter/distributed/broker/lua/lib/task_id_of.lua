-- Returns the task id that a payload names, whatever the order of its keys, or nil: by plain_task_id(), else by a JSON
-- parser.
--!include plain_task_id
local function task_id_of(text)
  local id = plain_task_id(text)
  if id then return id end
  local read, task = pcall(cjson.decode, text)
  return read and type(task) == 'table' and type(task['task_id']) == 'string' and task['task_id'] or nil
end
