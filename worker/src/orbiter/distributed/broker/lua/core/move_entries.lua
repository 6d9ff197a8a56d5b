#!lua flags=allow-oom
-- Moves entries that wait on a stream that was replaced to the queue, a part of them at a time.
-- KEYS  {queue}:moving, queue
-- ARGV  number of entries at most, bytes at most, prefix of task hash ('' where these are in other slots)
-- Returns how many are left; then for each whose record is still to be told: new entry id, task id.
--!include entry_fields task_id_of payload_of
local moving, queue = KEYS[1], KEYS[2]
local left, bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
local moved = { 0 }
while left > 0 and bytes > 0 do
  local rows = redis.call('XRANGE', moving, '-', '+', 'COUNT', 1)
  if #rows == 0 then break end
  local fields = entry_fields(moving, rows[1][1])
  local id = redis.call('XADD', queue, '*', unpack(fields))
  redis.call('XDEL', moving, rows[1][1])
  local text = payload_of(fields) or ''
  local task = task_id_of(text)
  if task and ARGV[3] ~= '' then
    local record = ARGV[3] .. task
    if redis.pcall('HGET', record, 'entry') == rows[1][1] then redis.call('HSET', record, 'entry', id) end
  elseif task then
    moved[#moved + 1] = id
    moved[#moved + 1] = task
  end
  left, bytes = left - 1, bytes - #text
end
moved[1] = redis.call('XLEN', moving)
if moved[1] == 0 then redis.call('DEL', moving) end
return moved
