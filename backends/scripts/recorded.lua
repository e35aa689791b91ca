-- Says which resources of a repository have a lock. It stands alone and writes
-- nothing.
--
-- KEYS  1 state  2 queue
-- ARGV  the resources
--
-- Answers  {name of the repository or "", RESOURCE ...}
local answer = { redis.call('HGET', KEYS[1], 'name') or '' }
for _, resource in ipairs(ARGV) do
  if redis.call('HEXISTS', KEYS[1], 'l' .. resource) == 1 then answer[#answer + 1] = resource end
end
return answer
