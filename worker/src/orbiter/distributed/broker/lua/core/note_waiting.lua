#!lua flags=allow-oom
-- Notes that a started task has to wait, in its worker, before it runs alone; or that it runs from now on.
-- KEYS  task hash
-- ARGV  fence of the run, '1' (it waits) or '0' (it runs)
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
if ARGV[2] == '1' then
  redis.call('HSET', KEYS[1], 'waiting', ARGV[1])
else
  redis.call('HDEL', KEYS[1], 'waiting')
end
return 1
