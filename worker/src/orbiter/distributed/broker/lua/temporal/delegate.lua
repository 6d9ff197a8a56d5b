#!lua flags=allow-oom
-- Records that Temporal has accepted a task and owns it now; an entry of it that is delivered once more is only
-- acknowledged.
-- KEYS  task hash
-- ARGV  workflow id
if redis.call('HGET', KEYS[1], 'status') == 'running' then
  redis.call('HSET', KEYS[1], 'executor', 'temporal', 'workflow_id', ARGV[1])
end
return 1
