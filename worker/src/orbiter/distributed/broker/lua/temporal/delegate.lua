#!lua flags=allow-oom
-- Records that Temporal has accepted a task and owns it now; an entry of it that is delivered once more is only
-- acknowledged.
-- KEYS  task hash
-- ARGV  workflow id
--!include read_record
if read_record(KEYS[1], 'status')[1] == 'running' then
  redis.call('HSET', KEYS[1], 'executor', 'temporal', 'workflow_id', ARGV[1])
end
return 1
