#!lua flags=allow-oom
-- Looks at keys of ours, and puts those away that are of another type than they should be: what lies beside the queue,
-- and the queue itself, is moved aside; a list of tasks is removed, as it is made anew.
-- KEYS  keys of one slot
-- ARGV  for each of them: its type ('stream', 'hash', 'zset', 'set' or 'string'), and what becomes of it ('aside' or
--       'remove')
-- Returns for each that was put away: its name, and the new one ('' where it was removed).
--!include is_spoilt move_aside
local READ = {
  stream = { 'XLEN' }, hash = { 'HGET', '' }, zset = { 'ZCARD' }, set = { 'SCARD' }, string = { 'GET' },
}
local mended = {}
for n, key in ipairs(KEYS) do
  local read = READ[ARGV[2 * n - 1]]
  local reply = redis.pcall(unpack({ read[1], key, read[2] }))
  if type(reply) == 'table' and reply.err then
    if not is_spoilt(reply.err) then error(reply) end
    local aside = ''
    if ARGV[2 * n] == 'aside' then aside = move_aside(key) else redis.call('DEL', key) end
    mended[#mended + 1] = key
    mended[#mended + 1] = aside
  end
end
return mended
