-- Reads the next locks of a repository, in the order of its owners' index: a
-- place in it stays right whatever is added or removed, and on another server.
-- It stands alone and writes nothing.
--
-- KEYS  1 meta  2 locks  3 owners
-- ARGV  1 entry after which to go on, empty for the beginning  2 how many
--
-- Answers  {microseconds, name of the repository, "1" when the index and the
--          records do not match, last entry or "" at the end, RESOURCE RECORD ...}
local clock = redis.call('TIME')
local name = redis.call('HGET', KEYS[1], 'name') or ''
local entries = redis.call('ZRANGEBYLEX', KEYS[3], ARGV[1] == '' and '-' or '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local answer = {
  string.format('%.0f', clock[1] * 1000000 + clock[2]), name,
  redis.call('HLEN', KEYS[2]) == redis.call('ZCARD', KEYS[3]) and '' or '1', #entries == tonumber(ARGV[2]) and entries[#entries] or '',
}
local resources = {}
for _, entry in ipairs(entries) do
  local resource = string.match(entry, '^[^\n]*\n(.*)$')
  if resource then resources[#resources + 1] = resource end
end
if #resources > 0 then
  for i, record in ipairs(redis.call('HMGET', KEYS[2], unpack(resources))) do
    if record then
      answer[#answer + 1] = resources[i]
      answer[#answer + 1] = record
    end
  end
end
return answer
