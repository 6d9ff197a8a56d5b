#!lua flags=allow-oom
-- Notes in a task's record which entry stands for it. Sending it again is harmless.
-- KEYS  task hash
-- ARGV  entry id, '-' where it waits among the delayed ones
--!include read_record
if read_record(KEYS[1], 'task_id')[1] then
  redis.call('HDEL', KEYS[1], 'submitting')
  if ARGV[1] ~= '-' then redis.call('HSET', KEYS[1], 'entry', ARGV[1]) end
end
return 1
