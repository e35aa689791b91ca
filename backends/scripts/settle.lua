-- Does what is due on resources.
--
-- KEYS  see the prelude; from 8 on stock's key of each resource, where there is
--       one server
-- ARGV  6 number of stock's keys  from 7 on the resources
--
-- Answers  settled STATUS VALUE ...: for each resource what settle says; VALUE
--          is the record of a held lock
local answer = {}
for i = 7, #ARGV do
  local mirror = tonumber(ARGV[6]) > 0 and KEYS[8 + i - 7] or nil
  local status, value = settle(ARGV[i], mirror)
  if status == 'held' then value = format(value) end
  answer[#answer + 1] = status
  answer[#answer + 1] = value or ''
  if status == 'free' then redis.call('ZREM', DEADLINES, ARGV[i]) end
end
return finish('settled', unpack(answer))
