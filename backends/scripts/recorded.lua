-- Says which resources of a repository have a record. It stands alone and
-- writes nothing.
--
-- KEYS  1 meta  2 locks
-- ARGV  the resources
--
-- Answers  {name of the repository or "", RESOURCE ...}
local answer = { redis.call('HGET', KEYS[1], 'name') or '' }
for _, resource in ipairs(ARGV) do
  if redis.call('HEXISTS', KEYS[2], resource) == 1 then answer[#answer + 1] = resource end
end
return answer
