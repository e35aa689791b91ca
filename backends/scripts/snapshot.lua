-- Reads a piece of a repository, for checks. It stands alone and writes nothing.
--
-- KEYS  1 state  2 deadlines  3 log  4 queue
-- ARGV  1 number of the key to read  2 cursor, "0" at first  3 how many
--
-- Answers  {microseconds, what counts the changes, next cursor or "0" at the end,
--          fields and values, or members and scores ...}; the cursor is
--          "?" when the key has another type. A request that was cancelled on its
--          way takes a token and is not logged, nor is what is forgotten, trimmed or
--          swept.
local clock = redis.call('TIME')
local answer = { string.format('%s%06d', clock[1], clock[2]), '', '0' }
-- All but when somebody wants to be woken, see count in the prelude.
local counters = redis.pcall('HGET', KEYS[1], 'counters')
if type(counters) == 'string' then answer[2] = string.gsub(counters, '^(%S+ %S+ %S+ %S+) %S+', '%1') end
local which = tonumber(ARGV[1])
local page = redis.pcall(which == 1 and 'HSCAN' or 'ZSCAN', KEYS[which], ARGV[2], 'COUNT', ARGV[3])
if page.err then
  answer[3] = '?'
  return answer
end
answer[3], page = page[1], page[2]
for i = 1, #page do answer[3 + i] = page[i] end
return answer
