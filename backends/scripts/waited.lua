-- Reads who holds what is waited for, and what those who wait hold. It stands alone
-- and writes nothing.
--
-- KEYS  1 state  2 queue
-- ARGV  1 how many resources follow, from 2 on those, and then owners, as ownerEntry in
--       the prelude has them
--
-- Answers  {owner of each resource or "", for each owner how many locks it has and the
--          resources of those}
local clock = redis.call('TIME')
local now, count = clock[1] * 1000000 + clock[2], tonumber(ARGV[1])
local answer = {}
for i = 2, count + 1 do
  local header = redis.call('HGET', KEYS[1], 'l' .. ARGV[i])
  local expires, owner = string.match(header or '', '^%d+\n%d+\n(%d+)\n[-mcpMC]\n%-?%d+\n([^\n]+)\n')
  answer[#answer + 1] = expires and (expires == '0' or expires + 0 > now) and owner or ''
end
local pattern = '^' .. string.rep('[^\n]*\n', 6) .. '([^\n]*)\n'
for i = count + 2, #ARGV do
  local entry = 'o' .. ARGV[i] .. '\n'
  local resources, requests, fields = {}, {}, { 'HMGET', KEYS[1] }
  for _, member in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], '[' .. entry, '(' .. entry .. '\255', 'LIMIT', 0, 1000)) do
    local resource, request = string.match(member, '^([^\n]*)\n(.*)$', #entry + 1)
    if resource then
      local n = #resources + 1
      resources[n], requests[n], fields[2 + n] = resource, request, 'l' .. resource
    end
  end
  local at = #answer + 1
  answer[at] = '0'
  for k, header in ipairs(#resources > 0 and redis.call(unpack(fields)) or {}) do
    if header and string.match(header, pattern) == requests[k] then answer[#answer + 1] = resources[k] end
  end
  answer[at] = tostring(#answer - at)
end
return answer
