-- Returns the task id of a payload that is written as 0.1 clients and ours write it, or nil.
-- The contract, kept by payloads.plain_task_id() in Python too: the text begins with {"task_id":"ID", with at most one
-- space behind the colon, and ID is 1 to 200 of A-Z a-z 0-9 _ . : @ - and not reserved. So ID holds no escape, and
-- bytes are characters. Nil says nothing about a payload: keys may come in any order, and what does not begin so is
-- read by a JSON parser. An id says nothing about the rest of the text: the worker parses all of it before it runs it.
local function plain_task_id(text)
  local id = string.match(text, '^{"task_id": ?"([%w_%.:@-]+)"')
  return id and #id <= 200 and id ~= 'index' and id ~= 'by_time' and id ~= 'ended' and id or nil
end
