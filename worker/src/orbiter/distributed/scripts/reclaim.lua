#!lua flags=allow-oom
-- Claims entries whose owner has stopped renewing; one sweeper at a time in the whole fleet.
-- KEYS  queue, {queue}:sweep, orbiter:fleet
-- ARGV  group, consumer, count, lease ms, sweep interval ms, prefix of worker hashes
-- Returns { entries, gone }: entries as XREADGROUP does, and how many consumers of dead workers were removed.
local queue, sweep, fleet = KEYS[1], KEYS[2], KEYS[3]
local group, consumer, count, lease, interval, workers = unpack(ARGV)
count, lease = tonumber(count), tonumber(lease)
if not redis.call('SET', sweep, consumer, 'NX', 'PX', interval) then return { {}, 0 } end

-- The lease that counts is its owner's: a short-lived sweeper must not steal from a worker that beats more slowly. A
-- worker without a hash has missed its own; a worker with a hash but no version is 0.1, which never renews while it lives.
local leases = {}
local function lease_of(owner)
  if leases[owner] == nil then
    local known = redis.call('HMGET', workers .. owner, 'status', 'version', 'heartbeat_ttl')
    if known[1] and not known[2] then
      leases[owner] = math.huge
    else
      leases[owner] = known[3] and tonumber(known[3]) * 1000 or lease
    end
  end
  return leases[owner]
end

local claimed, from = {}, '-'
for _ = 1, 20 do
  local rows = redis.call('XPENDING', queue, group, 'IDLE', 1000, from, '+', 100)
  for _, row in ipairs(rows) do
    local entry, owner, idle = row[1], row[2], row[3]
    if #claimed < count and idle >= lease_of(owner) then
      local got = redis.call('XCLAIM', queue, group, consumer, idle, entry)
      if #got > 0 and got[1] then claimed[#claimed + 1] = got[1] end
    end
  end
  if #claimed >= count then
    -- More may be waiting than this worker has room for: let the next one sweep at once.
    redis.call('DEL', sweep)
    break
  end
  if #rows < 100 then break end
  from = '(' .. rows[#rows][1]
end

local gone = 0
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', queue, group)) do
  local name, pending, idle = row[2], row[4], row[6]
  -- Removing a consumer that has pending entries would lose them.
  if pending == 0 and idle > 60000 and redis.call('EXISTS', workers .. name) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', queue, group, name)
    gone = gone + 1
  end
end
redis.call('ZREMRANGEBYSCORE', fleet, '-inf', now_ms() - 86400000)
return { claimed, gone }
