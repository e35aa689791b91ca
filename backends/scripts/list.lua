-- Reads the next locks of a repository, in the order of its owners' index: a
-- place in it stays right whatever is added or removed, and on another server.
-- It stands alone and writes nothing.
--
-- KEYS  1 state  2 owners
-- ARGV  1 entry after which to go on, empty for the beginning  2 how many
--
-- Answers  {microseconds, name of the repository or "", "1" when the index has
--          more or fewer entries than there are locks, last entry or "" at the
--          end, RESOURCE HEADER DETAILS ...}
local clock = redis.call('TIME')
local state = redis.call('HMGET', KEYS[1], 'name', 'locks')
local entries = redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1] == '' and '-' or '(' .. ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local count = redis.call('ZCARD', KEYS[2]) - 1
local answer = {
  string.format('%s%06d', clock[1], clock[2]), state[1] or '',
  state[1] and count ~= tonumber(state[2] or '') and '1' or '', #entries == tonumber(ARGV[2]) and entries[#entries] or '',
}
for _, entry in ipairs(entries) do
  local at = string.find(entry, '\n', 1, true)
  local resource = at and string.sub(entry, at + 1)
  local lock = resource and redis.call('HMGET', KEYS[1], 'l' .. resource, 'd' .. resource)
  if lock and lock[1] then
    local n = #answer
    answer[n + 1], answer[n + 2], answer[n + 3] = resource, lock[1], lock[2] or ''
  end
end
return answer
