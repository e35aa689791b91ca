-- Reads the entries of the owners' index with a prefix, those of who waits, and of
-- what is reserved.
-- It stands alone and writes nothing.
--
-- KEYS  1 state  2 owners  3 queue, if those of it are wanted
-- ARGV  1 prefix  2 how many of each at most
--
-- Answers  {name of the repository or "", how many wait in it or "", how many
--          entries of the queue come next, those, ENTRY ...}; an entry that begins
--          with s is of the queue, too: of a reservation
local state = redis.call('HMGET', KEYS[1], 'name', 'waiters', 'kept')
local function entries(key, prefix)
  return redis.call('ZRANGEBYLEX', key, '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', 0, ARGV[2])
end
local waiting = KEYS[3] and (state[2] or '0') ~= '0' and entries(KEYS[3], 'o' .. ARGV[1]) or {}
local answer = { state[1] or '', state[2] or '', tostring(#waiting), unpack(waiting) }
for _, entry in ipairs(entries(KEYS[2], ARGV[1])) do answer[#answer + 1] = entry end
for _, entry in ipairs(KEYS[3] and (state[3] or '0') ~= '0' and entries(KEYS[3], 's' .. ARGV[1]) or {}) do answer[#answer + 1] = entry end
return answer
