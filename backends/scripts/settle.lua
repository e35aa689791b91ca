-- Does what is due on resources.
--
-- KEYS  see the prelude, with each resource
-- ARGV  from 7 on the resources
--
-- Answers  settled STATUS VALUE DETAILS ...: for each resource what settle
--          says; the values are the parts of a lock
load()
local answer = {}
for i = 7, #ARGV do
  local resource = ARGV[i]
  local mirror, old = stockKeys(i - 6)
  local parts = call('HMGET', KEYS[1], 'l' .. resource, 'd' .. resource)
  local status, value = settle(resource, parts[1], parts[2], mirror, old)
  -- A deadline that is not the lock's must not be due again and again.
  local deadline = call('ZSCORE', KEYS[2], resource)
  -- One that has not come may be a reservation's, whatever stock has there.
  local kept = S.kept > 0 and deadline and deadline + 0 > S.now and call('HEXISTS', KEYS[1], 'k' .. resource) == 1
  if deadline and status ~= 'unreadable' and not kept then
    local expires = status == 'held' and value.expires or '0'
    if deadline + 0 ~= expires + 0 then
      prepare(true, true)
      call('ZREM', KEYS[2], resource)
      if expires ~= '0' then call('ZADD', KEYS[2], expires, resource) end
    end
  end
  local n = #answer
  if status == 'held' or status == 'reserved' then
    answer[n + 1], answer[n + 2], answer[n + 3] = status, value.header, value.details
  else
    answer[n + 1], answer[n + 2], answer[n + 3] = status, value or '', ''
  end
end
return finish('settled', unpack(answer))
