-- Reads the next deadlines of a repository. It stands alone and writes nothing.
--
-- KEYS  1 state  2 deadlines
-- ARGV  1 how many of those that are due to leave out  2 how many at most
--
-- Answers  {name of the repository or "", microseconds until the next deadline
--          or "" without one, RESOURCE of each that is due ...}
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local answer = { redis.call('HGET', KEYS[1], 'name') or '', '' }
local first = redis.call('ZRANGE', KEYS[2], ARGV[1], ARGV[1], 'WITHSCORES')
if first[1] and first[1] ~= '' then answer[2] = string.format('%d', first[2] - now) end
for _, resource in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%d', now), 'LIMIT', ARGV[1], ARGV[2])) do
  answer[#answer + 1] = resource
end
return answer
