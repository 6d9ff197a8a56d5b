-- Writes a worker's heartbeat. ARGV from `first` on: ttl seconds, life, the life that it may replace, then field,
-- value, … A life is one process's time under a worker id. While another one's heartbeat stands, nothing is written.
-- Returns nil, or { 'taken', and of the other one: its life, hostname, pid, moment of its last heartbeat }.
--!include now_seconds
local function write_heartbeat(worker, first)
  local ttl, life, replaced = ARGV[first], ARGV[first + 1], ARGV[first + 2]
  local known = redis.call('HMGET', worker, 'last_heartbeat', 'life', 'hostname', 'pid')
  local other = known[2] or ''
  if known[1] and other ~= life then
    if other ~= replaced then return { 'taken', other, known[3] or '', known[4] or '', known[1] } end
    redis.call('DEL', worker)
  end
  redis.call('HSET', worker, 'last_heartbeat', now_seconds(), 'life', life, unpack(ARGV, first + 3))
  redis.call('HSETNX', worker, 'started_at', now_seconds())
  redis.call('EXPIRE', worker, ttl)
end
