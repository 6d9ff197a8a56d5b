#!lua flags=allow-oom
-- Looks at keys of ours, and moves those aside that are of another type than they should be, or removes them.
-- KEYS  keys of one slot; where they are moved aside, the last one is {queue}:broken, with notes of what was
-- ARGV  what becomes of them ('aside' or 'remove'), then the type of each key ('stream', 'hash', 'zset', 'set' or
--       'string')
-- Returns for each that was put away, also since the call before this one: its name, and the new one ('' where it was
-- removed).
--!include is_spoilt move_aside
local READ = {
  stream = { 'XLEN' }, hash = { 'HGET', '' }, zset = { 'ZCARD' }, set = { 'SCARD' }, string = { 'GET' },
}
local mended, aside = {}, ARGV[1] == 'aside'
for n, key in ipairs(KEYS) do
  local read = READ[ARGV[n + 1]]
  local reply = redis.pcall(unpack({ read[1], key, read[2] }))
  if type(reply) == 'table' and reply.err then
    if not is_spoilt(reply.err) then error(reply) end
    if aside and n < #KEYS then
      move_aside(key)
    else
      redis.call('DEL', key)
      mended[#mended + 1] = key
      mended[#mended + 1] = ''
    end
  end
end
if aside then
  local notes = redis.call('HGETALL', KEYS[#KEYS])
  for i = 1, #notes, 2 do
    mended[#mended + 1] = notes[i + 1]
    mended[#mended + 1] = notes[i]
  end
  redis.call('DEL', KEYS[#KEYS])
end
return mended
