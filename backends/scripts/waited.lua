-- Reads who holds what is waited for, and what those who wait hold. It stands alone
-- and writes nothing.
--
-- KEYS  1 state  2 owners
-- ARGV  1 how many resources follow, from 2 on those, and then owners' parts of the
--       owners' index
--
-- Answers  {owner of each resource or "", for each owner how many entries it has and
--          the resources of those}
local clock = redis.call('TIME')
local now, count = clock[1] * 1000000 + clock[2], tonumber(ARGV[1])
local answer = {}
for i = 2, count + 1 do
  local header = redis.call('HGET', KEYS[1], 'l' .. ARGV[i])
  local expires, owner = string.match(header or '', '^%d+\n%d+\n(%d+)\n[-mcpMC]\n%-?%d+\n([^\n]+)\n')
  answer[#answer + 1] = expires and (expires == '0' or expires + 0 > now) and owner or ''
end
for i = count + 2, #ARGV do
  local entry = ARGV[i] .. '\n'
  local members = redis.call('ZRANGEBYLEX', KEYS[2], '[' .. entry, '(' .. entry .. '\255', 'LIMIT', 0, 1000)
  answer[#answer + 1] = tostring(#members)
  for _, member in ipairs(members) do answer[#answer + 1] = string.sub(member, #entry + 1) end
end
return answer
