-- Does what is due on resources.
--
-- KEYS  see the prelude, with each resource
-- ARGV  from 7 on the resources
--
-- Answers  settled STATUS VALUE ...: for each resource what settle says; VALUE
--          is the record of a held lock
local answer = {}
for i = 7, #ARGV do
  local resource = ARGV[i]
  local mirror, old = stockKeys(i - 6)
  local status, value = settle(resource, mirror, old)
  -- A deadline that is not the lock's must not be due again and again.
  local deadline = call('ZSCORE', DEADLINES, resource)
  if deadline and status ~= 'unreadable' then
    local expires = status == 'held' and value.expires or '0'
    if deadline + 0 ~= expires + 0 then
      prepare(true)
      call('ZREM', DEADLINES, resource)
      if expires ~= '0' then call('ZADD', DEADLINES, expires, resource) end
    end
  end
  answer[#answer + 1] = status
  answer[#answer + 1] = status == 'held' and format(value) or value or ''
end
return finish('settled', unpack(answer))
