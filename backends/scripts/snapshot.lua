-- Reads a piece of a repository, for checks. It stands alone and writes nothing.
--
-- KEYS  1 meta  2 locks  3 deadlines  4 owners  5 memory  6 forget
-- ARGV  1 number of the key to read  2 cursor, "0" at first  3 how many
--
-- Answers  {microseconds, last sequence, next cursor or "0" at the end, fields
--          and values, members and scores, or values ...}; the cursor is "?"
--          when the key has another type
local clock = redis.call('TIME')
local answer = { string.format('%.0f', clock[1] * 1000000 + clock[2]), '', '0' }
local sequence = redis.pcall('HGET', KEYS[1], 'sequence')
if type(sequence) == 'string' then answer[2] = sequence end
local which, page = tonumber(ARGV[1])
local key = KEYS[which]
if which == 6 then
  page = redis.pcall('LRANGE', key, ARGV[2], ARGV[2] + ARGV[3] - 1)
  if not page.err and #page == tonumber(ARGV[3]) then answer[3] = string.format('%.0f', ARGV[2] + #page) end
else
  page = redis.pcall((which == 3 or which == 4) and 'ZSCAN' or 'HSCAN', key, ARGV[2], 'COUNT', ARGV[3])
  if not page.err then answer[3], page = page[1], page[2] end
end
if page.err then
  answer[3] = '?'
  return answer
end
for i = 1, #page do answer[3 + i] = page[i] end
return answer
